//! The least that an NBD server can do: each request is answered at once, with zeros. What a client reaches
//! here it reaches nowhere else.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use anyhow::{Result, bail};

const SIZE_BYTES: u64 = 1 << 30;

/// Serves until it is ended.
pub(crate) fn run(socket: &Path) -> Result<()> {
    for client in UnixListener::bind(socket)?.incoming() {
        let client = client?;
        // A client that leaves is no error.
        thread::spawn(move || serve(client).is_err());
    }
    Ok(())
}

fn serve(mut client: UnixStream) -> Result<()> {
    client.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    client.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; 16];
        client.read_exact(&mut header)?;
        let [.., o0, o1, o2, o3, l0, l1, l2, l3] = header;
        let option = [o0, o1, o2, o3];
        let mut data = vec![0; u32::from_be_bytes([l0, l1, l2, l3]) as usize];
        client.read_exact(&mut data)?;
        let mut reply = |kind: u32, data: &[u8]| -> Result<()> {
            let length = u32::try_from(data.len())?;
            client.write_all(&0x0003_e889_0455_65a9_u64.to_be_bytes())?;
            client.write_all(&option)?;
            client.write_all(&kind.to_be_bytes())?;
            client.write_all(&length.to_be_bytes())?;
            Ok(client.write_all(data)?)
        };
        match u32::from_be_bytes(option) {
            7 => {
                let mut info = vec![0, 0];
                info.extend_from_slice(&SIZE_BYTES.to_be_bytes());
                // Flags, flush, FUA, several connections.
                info.extend_from_slice(&0x010d_u16.to_be_bytes());
                reply(3, &info)?;
                reply(1, &[])?;
                return transmit(client);
            }
            8 => reply(1, &[])?,
            _ => reply((1 << 31) | 1, &[])?,
        }
    }
}

/// Structured replies only.
fn transmit(mut client: UnixStream) -> Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut input = vec![0; 2 << 20];
    let (mut begin, mut end) = (0, 0);
    let mut heads = Vec::new();
    loop {
        input.copy_within(begin..end, 0);
        (begin, end) = (0, end - begin);
        end += match client.read(&mut input[end..])? {
            0 => return Ok(()),
            bytes => bytes,
        };
        heads.clear();
        while let Some(header) = input[begin..end].first_chunk::<28>() {
            let number = |at: usize| {
                u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let length = number(24) as usize;
            let write = header[7] == 1;
            if header[7] == 2 || number(0) != 0x2560_9513 {
                bail!("the end");
            }
            if write && end - begin < 28 + length {
                break;
            }
            let mut head = [0; 28];
            head[..4].copy_from_slice(&0x668e_33ef_u32.to_be_bytes());
            head[5] = 1;
            head[8..16].copy_from_slice(&header[8..16]);
            if header[7] == 0 {
                head[7] = 1;
                head[16..20].copy_from_slice(&(number(24) + 8).to_be_bytes());
                head[20..].copy_from_slice(&header[16..24]);
            }
            heads.push((head, if header[7] == 0 { length } else { 0 }));
            begin += 28 + if write { length } else { 0 };
        }
        let mut pieces = Vec::with_capacity(2 * heads.len());
        for (head, length) in &heads {
            if *length > 0 {
                pieces.push(IoSlice::new(head));
                pieces.push(IoSlice::new(&zeros[..*length]));
            } else {
                pieces.push(IoSlice::new(&head[..20]));
            }
        }
        let mut rest = &mut pieces[..];
        while !rest.is_empty() {
            let some = rest.len().min(1024);
            let sent = client.write_vectored(&rest[..some])?;
            IoSlice::advance_slices(&mut rest, sent);
        }
    }
}
