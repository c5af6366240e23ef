//! Connects the ranks of a job to each other, so that they can compute together.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use tch::Device;
use tinygate_c10d::{Group, Listen, Store};

use super::error::RendezvousError;
use super::exchange::Exchange;
use super::job::Job;

/// Connects this rank to all others, which must do the same at the same time.
pub(super) fn connect(
    store: &Store,
    job: &Job,
    device: Device,
    timeout: Duration,
) -> Result<Exchange, RendezvousError> {
    let listen = listen_at(job)?;
    let own = (job.rank, job.size);
    let (group, device) =
        group(store, own, &listen, device, timeout).map_err(|source| RendezvousError::Group {
            what: "the ranks could not connect to each other",
            source,
        })?;
    Ok(Exchange::new(group, job.rank, job.size, device))
}

/// The group for a rank's device, and the device of the group's tensors.
fn group(
    store: &Store,
    (rank, size): (u32, u32),
    listen: &Listen,
    device: Device,
    timeout: Duration,
) -> Result<(Group, Device), tinygate_c10d::Error> {
    let store = store.prefixed("group")?;
    if !matches!(device, Device::Cuda(_)) || !tinygate_c10d::has_nccl() {
        let group = Group::gloo(&store, rank, size, listen, timeout)?;
        return Ok((group, Device::Cpu));
    }
    let loopback = matches!(listen, Listen::Address(address) if address == "127.0.0.1");
    let group = Group::nccl(&store, rank, size, device, loopback, timeout)?;
    Ok((group, device))
}

/// Where this rank's group listens: at the interface that the user sets, else at the address from which this machine
/// reaches the master, so that ranks on one machine use its loopback.
fn listen_at(job: &Job) -> Result<Listen, RendezvousError> {
    if let Some(interface) = &job.interface {
        return Ok(Listen::Interface(interface.clone()));
    }
    let failed = |source: io::Error| RendezvousError::Listen {
        master: job.master.clone(),
        source,
    };
    let master = (job.master.host.as_str(), job.master.port);
    let address = master.to_socket_addrs().map_err(failed)?.next();
    let any: SocketAddr = match address {
        Some(SocketAddr::V6(_)) => (IpAddr::from([0_u16; 8]), 0).into(),
        Some(SocketAddr::V4(_)) | None => (IpAddr::from([0_u8; 4]), 0).into(),
    };
    // Connecting a datagram socket sends nothing; it only chooses the local address.
    let socket = UdpSocket::bind(any).map_err(failed)?;
    socket.connect(master).map_err(failed)?;
    let own = socket.local_addr().map_err(failed)?;
    Ok(Listen::Address(own.ip().to_string()))
}
