//! What clients see: no request is lost, whoever the client is and whatever the listeners are.

mod addresses;
mod any_language;
mod clients;
mod drain;
mod limits;
mod load_counts;
mod nothing_lost;
mod unsteered;
mod wan;
mod websocket;
