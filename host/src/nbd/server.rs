//! The loop: one thread, one epoll, all connections of a device.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{
    CreateFlags, Event, EventData, EventFlags, add, create, delete, modify, wait,
};
use rustix::io::Errno as SysErrno;
use tracing::{debug, warn};

use super::connection::{Connection, Wants};
use super::handshake::Offer;
use super::listen::Listener;
use super::transmit::Export;
use crate::error::{Context, Result};
use crate::limits;

/// What an event is about: a connection by its place, or one of these.
const CLIENTS: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// How often overdue clients are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Events taken at a time.
const EVENTS_MAX: usize = 64;

/// Serves until `wake` can be read.
///
/// # Errors
///
/// Where the system refuses to wait for sockets. A client's errors end its connection.
pub fn serve_clients(
    listener: &Listener,
    wake: impl AsFd,
    offer: &Offer,
    export: &mut Export<'_>,
) -> Result<()> {
    let failed = || "cannot wait for clients".to_owned();
    let epoll = create(CreateFlags::CLOEXEC).doing(failed)?;
    add(
        &epoll,
        listener,
        EventData::new_u64(CLIENTS),
        EventFlags::IN,
    )
    .doing(failed)?;
    add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN).doing(failed)?;
    let mut clients: Vec<Option<Connection>> = Vec::new();
    clients.resize_with(limits::NBD_CONNECTIONS_MAX, || None);
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; EVENTS_MAX];
    let sweep = Timespec::try_from(SWEEP).ok();
    loop {
        let ready = match wait(&epoll, &mut events, sweep.as_ref()) {
            Err(SysErrno::INTR) => 0,
            ready => ready.doing(failed)?,
        };
        for event in &events[..ready] {
            // The structure is packed: its field is copied out.
            let data = event.data;
            match data.u64() {
                WAKE => return Ok(()),
                CLIENTS => accept(listener, &epoll, &mut clients),
                place => work(&epoll, &mut clients, place, offer, export),
            }
        }
        for slot in &mut clients {
            if slot.as_ref().is_some_and(Connection::is_overdue) {
                debug!("a client kept us waiting for too long");
                close(&epoll, slot);
            }
        }
    }
}

fn accept(listener: &Listener, epoll: &impl AsFd, clients: &mut [Option<Connection>]) {
    let Some(socket) = listener.accept() else {
        return;
    };
    let Some(place) = clients.iter().position(Option::is_none) else {
        warn!(
            "more than {} clients; a further one was sent away",
            clients.len()
        );
        return;
    };
    let connection = Connection::new(socket);
    // The greeting is sent at the first event.
    let events = EventFlags::IN | EventFlags::OUT;
    match add(
        epoll,
        connection.socket(),
        EventData::new_u64(place as u64),
        events,
    ) {
        Ok(()) => clients[place] = Some(connection),
        Err(error) => warn!(%error, "a client was sent away"),
    }
}

fn work(
    epoll: &impl AsFd,
    clients: &mut [Option<Connection>],
    place: u64,
    offer: &Offer,
    export: &mut Export<'_>,
) {
    let Some(slot) = usize::try_from(place)
        .ok()
        .and_then(|place| clients.get_mut(place))
    else {
        return;
    };
    let Some(client) = slot else { return };
    let events = match client.work(offer, export) {
        Wants::Input => EventFlags::IN,
        Wants::Output => EventFlags::OUT,
        // There is room to write, so this event comes at once.
        Wants::Turn => EventFlags::IN | EventFlags::OUT,
        Wants::Close => return close(epoll, slot),
    };
    if modify(epoll, client.socket(), EventData::new_u64(place), events).is_err() {
        close(epoll, slot);
    }
}

fn close(epoll: &impl AsFd, slot: &mut Option<Connection>) {
    if let Some(client) = slot.take() {
        let _ = delete(epoll, client.socket());
    }
}
