//! Servers of the benchmark, and what is measured at them.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::place::{DEADLINE, Place};

/// How long each is measured, behind a time in which it gets under way.
const WINDOW: Duration = Duration::from_millis(700);
const WARM_UP: Duration = Duration::from_millis(150);
/// A connection on which nothing happens for so long is given up.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections one after the other, and clients that connect at once.
const GETS: usize = 400;
const CLIENTS: usize = 16;
/// Of an answer, as a small page has.
const ANSWER: usize = 187;

const GET: u16 = 8001;
const SINK: u16 = 8002;
const SOURCE: u16 = 8003;

/// Bytes that a sink has taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// A new connection, a byte, and an answer: microseconds.
    Get,
    /// The same from many clients: connections a second.
    Rate,
    /// So many streams from the sandbox: gigabytes a second.
    Up(usize),
    /// To it.
    Down(usize),
}

impl What {
    pub(crate) const ALL: [Self; 6] = [
        Self::Get,
        Self::Rate,
        Self::Up(1),
        Self::Down(1),
        Self::Up(8),
        Self::Down(8),
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::Get => "new connection, µs".into(),
            Self::Rate => "connections/s".into(),
            Self::Up(streams) => format!("up {streams}, GB/s"),
            Self::Down(streams) => format!("down {streams}, GB/s"),
        }
    }

    /// Nothing when no byte came.
    pub(crate) fn measure(self, place: &Place, server: IpAddr) -> Option<f64> {
        let value = match self {
            Self::Get => place.run(move || latency(server))?,
            Self::Rate => rate(place, server),
            Self::Up(streams) => throughput(place, streams, move |stop| upload(server, stop)),
            Self::Down(streams) => throughput(place, streams, move |stop| download(server, stop)),
        };
        Some(value).filter(|value| *value > 0.0)
    }
}

/// Starts the servers in the namespace of the calling thread.
pub(crate) fn serve(address: IpAddr) {
    let listener = |port| Arc::new(TcpListener::bind((address, port)).unwrap());
    let get = listener(GET);
    for _ in 0..CLIENTS {
        let get = Arc::clone(&get);
        thread::spawn(move || {
            get.incoming().flatten().for_each(|stream| {
                let _ = answer(stream);
            });
        });
    }
    for (port, handle) in [(SINK, sink as fn(TcpStream)), (SOURCE, source)] {
        let listener = listener(port);
        thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| {
                thread::spawn(move || handle(stream));
            });
        });
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(&[b'a'; ANSWER])?;
    stream.shutdown(Shutdown::Write)
}

fn sink(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        TAKEN.fetch_add(length as u64, Ordering::Relaxed);
    }
}

fn source(mut stream: TcpStream) {
    let buffer = vec![7; 256 << 10];
    // Not sooner: nobody reads while the sandboxes of `fair` and `memory` are made.
    let _ = stream.set_write_timeout(Some(DEADLINE));
    while stream.write(&buffer).is_ok_and(|length| length > 0) {}
}

fn connect(server: IpAddr, port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(server, port), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// Whether all of an answer came.
pub(crate) fn get(server: IpAddr) -> bool {
    let Some(mut stream) = connect(server, GET) else {
        return false;
    };
    let mut answer = Vec::with_capacity(ANSWER);
    stream.write_all(b"?").is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.len() == ANSWER
}

/// A connection over which more comes than anybody reads.
pub(crate) fn source_of(server: IpAddr) -> Option<TcpStream> {
    connect(server, SOURCE)
}

fn latency(server: IpAddr) -> Option<f64> {
    let mut times = Vec::new();
    for _ in 0..GETS {
        let began = Instant::now();
        if !get(server) {
            return None;
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Some(times[GETS / 2].as_secs_f64() * 1e6)
}

fn rate(place: &Place, server: IpAddr) -> f64 {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            place.start(move || {
                let (began, mut done) = (Instant::now(), 0_u32);
                while began.elapsed() < WINDOW {
                    done += u32::from(get(server));
                }
                done
            })
        })
        .collect();
    let began = Instant::now();
    let done: u32 = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .sum();
    f64::from(done) / began.elapsed().max(WINDOW).as_secs_f64()
}

fn throughput(
    place: &Place,
    streams: usize,
    stream: impl Fn(&AtomicBool) + Clone + Send + 'static,
) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let running: Vec<_> = (0..streams)
        .map(|_| {
            let (stop, stream) = (Arc::clone(&stop), stream.clone());
            place.start(move || stream(&stop))
        })
        .collect();
    thread::sleep(WARM_UP);
    let (began, before) = (Instant::now(), TAKEN.load(Ordering::Relaxed));
    thread::sleep(WINDOW);
    let bytes = TAKEN.load(Ordering::Relaxed) - before;
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e9;
    stop.store(true, Ordering::Relaxed);
    running.into_iter().for_each(|one| one.join().unwrap());
    rate
}

fn upload(server: IpAddr, stop: &AtomicBool) {
    let buffer = vec![7; 256 << 10];
    if let Some(mut stream) = connect(server, SINK) {
        while !stop.load(Ordering::Relaxed) && stream.write(&buffer).is_ok() {}
    }
}

fn download(server: IpAddr, stop: &AtomicBool) {
    let mut buffer = vec![0; 256 << 10];
    if let Some(mut stream) = connect(server, SOURCE) {
        while !stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(length) => TAKEN.fetch_add(length as u64, Ordering::Relaxed),
                Err(_) => break,
            };
        }
    }
}
