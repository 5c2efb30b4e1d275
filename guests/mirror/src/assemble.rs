//! Puts a mirror together from what its legs say.

use std::cell::Cell;

use wasmblk_durable::{Area, Twin, hash};
use wasmblk_guest::{Errno, Level, OpenError, Options, Ranges, Store, log};

use crate::bell::Bell;
use crate::legs::{DATA_BEGIN, Leg, Legs};
use crate::record::{KIND, LEGS_MAX, REGIONS_MAX, Record, Shape, State};
use crate::regions::Regions;

/// The smallest region where none is asked for.
const REGION_BYTES: u64 = 4 << 20;

/// Generations that are left out where a leg is missing: more than there are without.
const ALONE: u64 = 1 << 32;

/// A leg that is granted, and what it says.
struct Found {
    store: Store,
    twin: Twin,
    record: Option<(Record, usize)>,
}

impl Found {
    fn open(name: &str, store: Store, format: bool) -> Result<Found, OpenError> {
        if store.read_only {
            let text = format!("the store '{name}' is read-only: grant it without ':ro'");
            return Err(OpenError::BadOption(text));
        }
        let area = Area {
            store,
            name,
            bytes: Twin::BYTES,
            format,
        };
        let (twin, body) = Twin::open(&KIND, &area)?;
        let record = body.map(|body| Record::decode(&body));
        Ok(Found {
            store,
            twin,
            record,
        })
    }
}

/// Why a leg cannot be read, where it cannot.
fn failure(store: &Store) -> Option<Errno> {
    let mut bytes = vec![0; Twin::BYTES as usize];
    // One that is too short for that is refused with its own words.
    let reads = store.size_bytes >= Twin::BYTES;
    reads.then(|| store.read_now(0, &mut bytes).err())?
}

/// Looks at the legs that are granted. One that cannot be read is as one that is not granted, where the newest record
/// says that it is out: then nothing is on it alone. `degraded` says nothing of that, for it is said once, and also
/// holds when an instance begins that knows less than the one before it.
fn find(
    names: &[&str],
    stores: &[Option<Store>],
    options: Options<'_>,
) -> Result<Vec<Option<Found>>, OpenError> {
    let format = options.is_yes("format")?;
    let mut found = Vec::new();
    let mut unreadable = Vec::new();
    for (place, (name, store)) in names.iter().zip(stores).enumerate() {
        let errno = store.as_ref().and_then(failure);
        unreadable.extend(errno.map(|errno| (place, errno)));
        let store = store.filter(|_| errno.is_none());
        let leg = store.map(|store| Found::open(name, store, format));
        found.push(leg.transpose()?);
    }
    let newest = newest(&found);
    for (place, errno) in unreadable {
        let text = format!("leg '{}' cannot be read: {errno:?}", names[place]);
        let spared = |record: &Record| record.states[place] == State::Out;
        if !newest.as_ref().is_some_and(|(record, ..)| spared(record)) {
            let remedy = "to do without all that only this leg has, do not grant it, and give --set degraded=yes";
            return Err(other(format!("{text}; {remedy}")));
        }
        log(Level::Error, &format!("{text}; the mirror does without"));
    }
    Ok(found)
}

/// The names of the legs, in their order.
fn names(options: Options<'_>) -> Result<Vec<&str>, OpenError> {
    let missing = "'legs' is missing: give --set legs=A,B with the names of two to four stores";
    let legs = options.last("legs").ok_or_else(|| bad(missing.into()))?;
    let names: Vec<&str> = legs.split(',').collect();
    let twice = (1..names.len()).any(|at| names[..at].contains(&names[at]));
    if twice || !(2..=LEGS_MAX).contains(&names.len()) {
        return Err(bad(format!(
            "legs={legs}: expected two to four names, each once"
        )));
    }
    Ok(names)
}

/// Opens the mirror, and tells all of its legs. Gives its logical and physical blocks too: the same whichever legs
/// serve.
pub(crate) fn assemble(options: Options<'_>) -> Result<(Legs, [u32; 2]), OpenError> {
    let names = names(options)?;
    let degraded = options.is_yes("degraded")?;
    let stores: Vec<Option<Store>> = names.iter().map(|name| Store::find(name)).collect();
    if !degraded && let Some(missing) = stores.iter().position(Option::is_none) {
        return Err(bad(format!(
            "it needs a store: give --store {}=PATH, or, to do without, --set degraded=yes",
            names[missing]
        )));
    }
    let block = options.block(stores.iter().flatten())?;
    let blocks = stores.iter().flatten().map(|store| store.block_bytes);
    let physical_block = blocks.max().unwrap_or(block).max(block);
    let found = find(&names, &stores, options)?;
    let newest = newest(&found);
    let shape = match &newest {
        Some((record, ..)) => record.shape,
        None => new_shape(&found, options, block)?,
    };
    check_options(&shape, options, names.len())?;
    Options::check_size(shape.size_bytes, block)?;
    for (name, found) in names.iter().zip(&found) {
        let needs = DATA_BEGIN + shape.size_bytes;
        if let Some(found) = found
            .as_ref()
            .filter(|found| found.store.size_bytes < needs)
        {
            let has = found.store.size_bytes;
            return Err(other(format!(
                "store '{name}' has {has} bytes, and a leg of this mirror needs {needs}"
            )));
        }
    }
    check_same(&names, &found, newest.as_ref())?;
    let (states, all_dirty) = states(&found, newest.as_ref());
    let bytes = shape.size_bytes.div_ceil(shape.region_bytes).div_ceil(8) as usize;
    let dirty = match &newest {
        Some((record, ..)) if !all_dirty => record.dirty.clone(),
        _ => vec![0xff; bytes],
    };
    let generation = newest.as_ref().map_or(0, |(_, _, generation)| *generation);
    let legs = names.iter().zip(found).zip(&states);
    let legs = legs.enumerate().map(|(place, ((name, found), state))| Leg {
        name: (*name).to_owned(),
        left: Cell::new(match &newest {
            Some((record, ..)) if record.states[place] == State::Out => record.left[place],
            _ => generation.saturating_sub(1),
        }),
        sent: Cell::new(match (&newest, &found) {
            (_, Some(found)) => found.twin.generation(),
            (Some((record, ..)), None) if record.states[place] == State::Out => record.sent[place],
            _ => generation + 1,
        }),
        disk: found.map(|found| (found.store, found.twin)),
        state: Cell::new(*state),
    });
    let legs = Legs {
        legs: legs.collect(),
        shape,
        regions: Regions::new(shape.size_bytes, shape.region_bytes, &dirty),
        ranges: Ranges::default(),
        turn: Ranges::default(),
        bell: Bell::default(),
        generation: Cell::new(generation),
        changes: Cell::new(0),
        saved: Cell::new(0),
        reader: Cell::new(0),
        flushing: Ranges::default(),
        has_lost: Cell::new(false),
    };
    if legs.first_in().is_none() {
        return Err(other(
            "none of the legs that are granted has all data: grant those that are missing".into(),
        ));
    }
    let was_out =
        |place: usize| matches!(&newest, Some((record, ..)) if record.states[place] == State::Out);
    let missing = |(place, leg): (usize, &Leg)| leg.disk.is_none() && !was_out(place);
    if legs.legs.iter().enumerate().any(missing) {
        // Should that leg be used alone as well, both are newer than any record that the other can have.
        legs.generation.set(generation + ALONE);
    }
    save_now(&legs)?;
    Ok((legs, [block, physical_block]))
}

/// The newest record, the place of the leg that has it, and its generation.
fn newest(found: &[Option<Found>]) -> Option<(Record, usize, u64)> {
    let mut newest: Option<(Record, usize, u64)> = None;
    for (place, found) in found.iter().enumerate() {
        let Some(found) = found else { continue };
        let generation = found.twin.generation();
        if let Some((record, _)) = &found.record
            && newest
                .as_ref()
                .is_none_or(|(.., before)| generation > *before)
        {
            newest = Some((record.clone(), place, generation));
        }
    }
    newest
}

fn new_shape(
    found: &[Option<Found>],
    options: Options<'_>,
    block: u32,
) -> Result<Shape, OpenError> {
    let stores = found.iter().flatten().map(|found| found.store.size_bytes);
    let smallest = stores.min().unwrap_or(0);
    let size_bytes = smallest.saturating_sub(DATA_BEGIN) / u64::from(block) * u64::from(block);
    if size_bytes == 0 {
        return Err(other(format!(
            "the smallest leg has {smallest} bytes; it needs more than {DATA_BEGIN}"
        )));
    }
    let fits = |region: u64| size_bytes.div_ceil(region) <= REGIONS_MAX;
    let mut region_bytes = REGION_BYTES;
    while !fits(region_bytes) {
        region_bytes *= 2;
    }
    if let Some(asked) = options.size("region")? {
        if !asked.is_power_of_two() || asked < 4096 || !fits(asked) {
            return Err(bad(format!(
                "region={asked}: expected a power of two from 4K on, and at most {REGIONS_MAX} regions, such as \
                 {region_bytes}"
            )));
        }
        region_bytes = asked;
    }
    let name = options.last("id").unwrap_or_default();
    let words = format!("{name},{size_bytes},{region_bytes},{}", found.len());
    Ok(Shape {
        id: hash(words.as_bytes()),
        size_bytes,
        region_bytes,
        legs: found.len(),
    })
}

fn check_options(shape: &Shape, options: Options<'_>, legs: usize) -> Result<(), OpenError> {
    if shape.legs != legs {
        return Err(bad(format!(
            "legs: this mirror has {} of them; name all, and with --set degraded=yes not all need to be granted",
            shape.legs
        )));
    }
    let region = shape.region_bytes;
    if options.size("region")?.is_some_and(|asked| asked != region) {
        return Err(bad(format!(
            "region: the mirror was made with region={region}; leave it out"
        )));
    }
    Ok(())
}

/// All legs are of one mirror, in their places, and none was used without the newest.
fn check_same(
    names: &[&str],
    found: &[Option<Found>],
    newest: Option<&(Record, usize, u64)>,
) -> Result<(), OpenError> {
    let Some((newest, newest_place, _)) = newest else {
        return Ok(());
    };
    let newest_name = names[*newest_place];
    for (place, found) in found.iter().enumerate() {
        let Some((record, says)) = found.as_ref().and_then(|found| found.record.as_ref()) else {
            continue;
        };
        let name = names[place];
        let remedy = "to make it a new leg of this mirror, make its first 8192 bytes zeros";
        if record.shape != newest.shape {
            return Err(other(format!(
                "stores '{name}' and '{newest_name}' are legs of different mirrors; {remedy}"
            )));
        }
        if *says != place {
            return Err(bad(format!(
                "legs: store '{name}' is number {} of the legs; give them in the order in which the mirror was \
                 made",
                says + 1
            )));
        }
        let has = found.as_ref().map_or(0, |found| found.twin.generation());
        if went_alone(record, place, has, newest) {
            return Err(other(format!(
                "stores '{name}' and '{newest_name}' were each used without the other, and both have data that \
                 the other lacks; decide for one, and of the other: {remedy}"
            )));
        }
    }
    Ok(())
}

/// Whether a leg was used without those that were used without it: its record is newer than all that it can have
/// from them.
fn went_alone(record: &Record, place: usize, has: u64, newest: &Record) -> bool {
    newest.states[place] == State::Out
        && record.states[place] == State::In
        && has > newest.sent[place]
}

/// In which states the legs begin; and whether all regions are to be made equal.
fn states(
    found: &[Option<Found>],
    newest: Option<&(Record, usize, u64)>,
) -> ([State; LEGS_MAX], bool) {
    let mut all_dirty = newest.is_none();
    let states = std::array::from_fn(|place| {
        let Some(Some(found)) = found.get(place) else {
            return State::Out;
        };
        let Some((newest, _, generation)) = newest else {
            return State::In;
        };
        let has = found.twin.generation();
        // A record is written to all legs that are not out before the next is begun.
        let (state, needs) = match newest.states[place] {
            State::Out => (State::Rebuilding, newest.left[place]),
            state => (state, generation.saturating_sub(1)),
        };
        if found.record.is_none() || has < needs {
            all_dirty = true;
            return State::Rebuilding;
        }
        state
    });
    (states, all_dirty)
}

/// Writes the first record of this life. A leg that does not take it is left out; before anything is answered, the
/// others have that in their next record ([`Legs::settle`]).
fn save_now(legs: &Legs) -> Result<(), OpenError> {
    let record = legs.record();
    let generation = legs.generation.get() + 1;
    legs.generation.set(generation);
    // First those that have all data: so these have the newest record, wherever the power goes.
    let mut order: Vec<(usize, &Leg)> = legs.legs.iter().enumerate().collect();
    order.sort_by_key(|(_, leg)| leg.state.get() != State::In);
    for (place, leg) in order {
        let Some((_, twin)) = &leg.disk else { continue };
        let body = record.encode(place);
        leg.sent.set(generation);
        let is_new = twin.generation() == 0;
        let written = if is_new {
            twin.make_now(generation, &body)
        } else {
            twin.write_now(generation, &body)
        };
        let Err(errno) = written else { continue };
        if is_new || !legs.leave_out(place, errno) {
            return Err(other(format!(
                "leg '{}' cannot be written: {errno:?}; to do without, do not grant it, and give --set degraded=yes",
                leg.name
            )));
        }
    }
    legs.regions.end_save(legs.changes.get() == 0);
    Ok(())
}

fn bad(text: String) -> OpenError {
    OpenError::BadOption(text)
}

fn other(text: String) -> OpenError {
    OpenError::Other(text)
}
