//! The loop that all clients of a device are served in: one thread, one epoll. Each turn, the requests
//! of all clients that are there go to the guest together.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{
    CreateFlags, Event, EventData, EventFlags, add, create, delete, modify, wait,
};
use rustix::fd::OwnedFd;
use rustix::io::Errno as SysErrno;
use tracing::{debug, warn};

use super::connection::{Connection, Export, Stop};
use super::handshake::Offer;
use super::listen::Listener;
use super::pages;
use super::patience::Patience;
use super::pool::Pool;
use super::tls::Tls;
use crate::block::{Errno, Next};
use crate::error::{Context, Result};
use crate::limits;
use crate::serve::Engine;
use crate::sys::{Blocking, Slots};

/// What an event is about: a client by its place, or one of these.
const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
const STORES: u64 = u64::MAX - 2;

/// How often overdue clients are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Events taken at a time.
const EVENTS_MAX: usize = 64;

/// What clients are offered, and what they are served from.
#[derive(Debug)]
pub struct Service<'a, 'b> {
    /// What is negotiated.
    pub offer: &'a Offer,
    /// For clients that encrypt.
    pub tls: Option<&'a Tls>,
    /// What serves.
    pub engine: &'a mut Engine<'b>,
    /// What carries out the transfers of its target.
    pub carrier: &'a mut Blocking,
    /// The engine's slots.
    pub slots: Slots,
}

/// Serves until `wake` can be read.
///
/// # Errors
///
/// Where the system refuses to wait for sockets. A client's errors end its connection.
pub fn serve_clients(listener: &Listener, wake: impl AsFd, service: Service<'_, '_>) -> Result<()> {
    let failed = || "cannot wait for clients".to_owned();
    let epoll = create(CreateFlags::CLOEXEC).doing(failed)?;
    let carrier = service.carrier;
    for (fd, data) in [
        (listener.as_fd(), LISTENER),
        (wake.as_fd(), WAKE),
        (carrier.as_fd(), STORES),
    ] {
        add(&epoll, fd, EventData::new_u64(data), EventFlags::IN).doing(failed)?;
    }
    let mut pool = Pool::new(service.slots);
    let mut export = Export {
        offer: service.offer,
        tls: service.tls,
        engine: service.engine,
        pool: &mut pool,
    };
    let mut server = Server::new(epoll);
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; EVENTS_MAX];
    let mut sweep_at = Instant::now() + SWEEP;
    let mut timeout = SWEEP;
    loop {
        let ready = server.wait(&mut events, timeout).doing(failed)?;
        for event in &events[..ready] {
            // The structure is packed: its fields are copied out.
            let data = event.data;
            match data.u64() {
                WAKE => return Ok(()),
                LISTENER => server.accept(listener),
                // What has ended is asked for in every turn.
                STORES => {}
                place => server.event(place, event.flags, export.pool),
            }
        }
        timeout = server.turn(&mut export, carrier)?;
        // However busy the others keep us.
        if Instant::now() >= sweep_at {
            server.sweep(export.pool);
            if !server.listening {
                server.listen(listener, true);
            }
            sweep_at = Instant::now() + SWEEP;
        }
    }
}

/// A client, and which events it is registered for.
pub(super) struct Client {
    pub(super) connection: Connection,
    interest: EventFlags,
}

struct Server {
    epoll: OwnedFd,
    /// Whether new clients are waited for.
    listening: bool,
    clients: Vec<Option<Client>>,
    /// Places of clients to be worked on in the next turn.
    work: Vec<usize>,
    /// Places of clients that wait for slots: they come first when there are some.
    starving: Vec<usize>,
    answers: Vec<(u32, std::result::Result<u32, Errno>)>,
    serial: u64,
    /// Clients for whom there was no place, since that was last told.
    sent_away: u64,
    patience: Patience,
}

impl Server {
    fn new(epoll: OwnedFd) -> Server {
        let mut clients = Vec::new();
        clients.resize_with(limits::NBD_CONNECTIONS_MAX, || None);
        Server {
            epoll,
            listening: true,
            clients,
            work: Vec::new(),
            starving: Vec::new(),
            answers: Vec::new(),
            serial: 0,
            sent_away: 0,
            patience: Patience::default(),
        }
    }

    /// Waits for events, not longer than this.
    fn wait(
        &mut self,
        events: &mut [Event; EVENTS_MAX],
        timeout: Duration,
    ) -> std::result::Result<usize, SysErrno> {
        let look = |events: &mut [Event; EVENTS_MAX], timeout: Duration| {
            let timeout = Timespec::try_from(timeout).ok();
            match wait(&self.epoll, events, timeout.as_ref()) {
                Err(SysErrno::INTR) => Ok(0),
                ready => ready,
            }
        };
        let at_once = |events: &mut [Event; EVENTS_MAX]| {
            let ready = look(events, Duration::ZERO);
            (ready != Ok(0)).then_some(ready)
        };
        if timeout > limits::NBD_LOOK_TIME
            && let Some(found) = self.patience.look(|| at_once(events))
        {
            return found;
        }
        look(events, timeout)
    }

    /// Waits for new clients, or not: one that cannot be taken would be told of without end.
    fn listen(&mut self, listener: &Listener, listening: bool) {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, listening);
        if modify(
            &self.epoll,
            listener,
            EventData::new_u64(LISTENER),
            interest,
        )
        .is_ok()
        {
            self.listening = listening;
        }
    }

    fn accept(&mut self, listener: &Listener) {
        let socket = match listener.accept() {
            Ok(Some(socket)) => socket,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "no further client can come in for now");
                return self.listen(listener, false);
            }
        };
        let Some(place) = self.clients.iter().position(Option::is_none) else {
            self.sent_away += 1;
            return;
        };
        self.serial += 1;
        let client = Client {
            connection: Connection::new(socket, place, self.serial),
            interest: EventFlags::IN,
        };
        let data = EventData::new_u64(place as u64);
        match add(&self.epoll, &client.connection, data, client.interest) {
            Ok(()) => self.clients[place] = Some(client),
            Err(error) => warn!(%error, "a client was sent away"),
        }
        // The greeting is sent in the next turn.
        self.add_work(place);
    }

    fn event(&mut self, place: u64, flags: EventFlags, pool: &mut Pool) {
        let Ok(place) = usize::try_from(place) else {
            return;
        };
        let Some(Some(client)) = self.clients.get_mut(place) else {
            return;
        };
        let over = match client.connection.stop {
            Stop::Input => client.connection.receive(pool).is_err(),
            // Nobody is there any more, and this would be told without end.
            _ => flags.intersects(EventFlags::HUP | EventFlags::ERR),
        };
        if over {
            return self.close(place, pool);
        }
        self.add_work(place);
    }

    fn add_work(&mut self, place: usize) {
        if !self.work.contains(&place) {
            self.work.push(place);
        }
    }

    /// Takes requests of all clients that have some, lets the guest work on them, and sends what is
    /// answered. Says how long to wait for events.
    fn turn(&mut self, export: &mut Export<'_, '_>, carrier: &mut Blocking) -> Result<Duration> {
        let mut first = std::mem::take(&mut self.starving);
        if !first.is_empty() {
            // Whoever was first has had slots.
            first.rotate_left(1);
        }
        self.work.retain(|place| !first.contains(place));
        first.append(&mut self.work);
        self.work = first;
        for &place in &self.work {
            if let Some(client) = &mut self.clients[place] {
                client.connection.issue(export);
            }
        }
        let next = self.serve(export, carrier)?;
        self.deliver(export);
        for place in std::mem::take(&mut self.work) {
            self.settle(place, export);
        }
        if export.pool.is_empty() && !self.starving.is_empty() {
            self.free_slots(export.pool);
        }
        let can_go_on = !self.starving.is_empty() && !export.pool.is_empty();
        if can_go_on || !self.work.is_empty() {
            return Ok(Duration::ZERO);
        }
        Ok(next.wait().map_or(SWEEP, |time| time.min(SWEEP)))
    }

    /// Lets the guest work, and carries out what it asks for, as long as that ends at once.
    fn serve(&mut self, export: &mut Export<'_, '_>, carrier: &mut Blocking) -> Result<Next> {
        let Export { engine, pool, .. } = export;
        carrier.take_ended(|token, ended| engine.ended(token, ended));
        let mut bytes = 0;
        for _ in 0..limits::NBD_TURN_REQUESTS_MAX {
            let answers = &mut self.answers;
            let next = engine.poll(|slot, result| answers.push((slot, result)));
            let mut transfers = engine.transfers();
            while let Some((token, transfer)) = transfers.next() {
                bytes += u64::from(transfer.moved_bytes());
                if pages::take(&self.clients, pool, carrier, &transfer) {
                    carrier.ended(token, Ok(transfer.length));
                    continue;
                }
                let begun = carrier.begin_before(token, &transfer, transfers.len());
                begun.doing(|| "cannot use the guest's stores".into())?;
            }
            drop(transfers);
            let ended = carrier.take_ended(|token, ended| engine.ended(token, ended));
            if ended == 0 && !engine.has_transfers() {
                return Ok(next);
            }
            if bytes > limits::TURN_BYTES_MAX {
                break;
            }
        }
        // The clients have their turn.
        Ok(Next::Again)
    }

    /// Takes slots from replies that clients do not read.
    fn free_slots(&mut self, pool: &mut Pool) {
        for place in 0..self.clients.len() {
            let client = self.clients[place].as_mut();
            if client.is_some_and(|client| client.connection.free_slots(pool).is_err()) {
                self.close(place, pool);
            }
        }
    }

    fn deliver(&mut self, export: &mut Export<'_, '_>) {
        for index in 0..self.answers.len() {
            let (slot, result) = self.answers[index];
            let owner = export.pool.owner(slot);
            match &mut self.clients[owner.client] {
                Some(client) if client.connection.serial == owner.serial => {
                    client.connection.answered(slot, result, export);
                    self.add_work(owner.client);
                }
                // Whoever asked is gone.
                _ => export.pool.give_back(slot),
            }
        }
        self.answers.clear();
    }

    /// Sends what there is, and decides what the client is waited for.
    fn settle(&mut self, place: usize, export: &mut Export<'_, '_>) {
        let Some(client) = &mut self.clients[place] else {
            return;
        };
        let connection = &mut client.connection;
        let mut received = false;
        let mut failed = connection.send(export).is_err();
        if !failed && connection.has_input() {
            failed = connection.receive(export.pool).is_err();
            received = true;
        }
        if !failed && connection.is_over() {
            connection.channel.end();
            failed = true;
        }
        if failed {
            return self.close(place, export.pool);
        }
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, connection.stop == Stop::Input);
        interest.set(EventFlags::OUT, connection.has_unsent());
        match connection.stop {
            Stop::Turn => self.work.push(place),
            Stop::Full if !connection.is_full() => self.work.push(place),
            Stop::Slots => self.starving.push(place),
            Stop::Input if received => self.work.push(place),
            _ => {}
        }
        if interest != client.interest {
            client.interest = interest;
            let data = EventData::new_u64(place as u64);
            if modify(&self.epoll, &client.connection, data, interest).is_err() {
                self.close(place, export.pool);
            }
        }
    }

    /// Ends clients that keep us waiting.
    fn sweep(&mut self, pool: &mut Pool) {
        if self.sent_away > 0 {
            let (sent_away, most) = (self.sent_away, self.clients.len());
            warn!("there are {most} clients; {sent_away} further ones were sent away");
            self.sent_away = 0;
        }
        for place in 0..self.clients.len() {
            let client = self.clients[place].as_ref();
            if client.is_some_and(|client| client.connection.is_overdue()) {
                debug!("a client kept us waiting for too long");
                self.close(place, pool);
            }
        }
    }

    fn close(&mut self, place: usize, pool: &mut Pool) {
        if let Some(mut client) = self.clients[place].take() {
            let _ = delete(&self.epoll, &client.connection);
            client.connection.abandon(pool);
        }
        self.starving.retain(|starving| *starving != place);
    }
}
