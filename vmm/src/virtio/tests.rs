//! The devices, driven as a driver would: on each bus, and as drivers of before virtio 1.0 do it.

mod blocks;
mod buses;
mod driver;
mod hostile;
mod streams;
