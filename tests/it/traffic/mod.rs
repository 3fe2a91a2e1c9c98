//! The clients' view: no request is lost, whatever the client and the listeners are.

mod addresses;
mod any_language;
mod clients;
mod drain;
mod limits;
mod load_counts;
mod nothing_lost;
mod tls;
mod unix_sockets;
mod unsteered;
mod wan;
mod websocket;
