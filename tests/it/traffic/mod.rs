//! The clients' view: no request is lost, whatever the client and the listeners are.

mod addresses;
mod any_language;
mod big_bodies;
mod changed_addresses;
mod clients;
mod conformance;
mod drain;
mod examples;
mod grpc;
mod limits;
mod load_counts;
mod nothing_lost;
mod sse;
mod tls;
mod tunnels;
mod unix_sockets;
mod unsteered;
mod wan;
mod websocket;
mod websocket_clients;
