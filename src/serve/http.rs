//! Connections: accepted, served, and let end.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::order::Maker;
use super::{Read, Settings, Shared, routes, worker};
use crate::error::{Error, Result};

/// Connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 1024;
/// How long the head of a request may take to come, which is also how long a connection may do nothing.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// How long answers may take to be read once everything is made.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// Threads that read requests and write answers; pictures have threads of their own.
const THREADS: usize = 2;

/// Asks a server to stop: it takes no new orders, makes those that it has, and ends.
#[derive(Clone)]
pub struct Stop(Arc<Notify>);

impl Stop {
    /// Asks it.
    pub fn stop(&self) {
        self.0.notify_one();
    }
}

/// Runs a server until it is asked to stop. `listening` is called with its address and the way to stop it, before the
/// model is opened; `open` opens the model on the thread that is going to use it; `ready` is called after that.
///
/// # Errors
/// If the address cannot be listened at, and those of `open`.
pub fn run<M: Maker>(
    settings: Settings,
    read: Read,
    listening: impl FnOnce(SocketAddr, Stop),
    open: impl FnOnce() -> Result<M> + Send + 'static,
    ready: impl FnOnce(&super::About) + Send + 'static,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::Request {
        what: "--host, --port".into(),
        expected: "an address of this machine that no other program listens at".into(),
        found: format!("{} ({e})", settings.address),
    };
    let listener = TcpListener::bind(settings.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let stop = Stop(Arc::new(Notify::new()));
    listening(address, stop.clone());

    let shared = Shared::new(settings.clone(), read);
    let worker = {
        let (shared, stop) = (shared.clone(), stop.clone());
        thread::Builder::new().name("pictures".into()).spawn(move || {
            let opened = open().map(|mut maker| {
                let about = shared.about.get_or_init(|| maker.about());
                ready(about);
                worker::work(&shared, &mut maker);
            });
            // Where the model cannot be opened, there is nothing to wait for.
            shared.queue.close();
            stop.stop();
            opened
        })
    }
    .map_err(failed)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().map_err(failed)?;
    runtime.block_on(accept(listener, shared, stop)).map_err(failed)?;
    // Connections that are still open end with this.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match worker.is_finished() {
        true => worker.join().unwrap_or(Ok(())),
        // It is in the middle of a step that nobody waits for.
        false => Ok(()),
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: Stop) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let service = TowerToHyperService::new(routes::router(&shared));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME);
    let (graceful, slots) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let accept = async {
        loop {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // Too many open files, or a client that is gone already.
                Err(_) => {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service.clone()));
            tokio::spawn(async move {
                let _slot = slot;
                // A client that breaks off is no error of ours.
                let _ = connection.await;
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = drain(&shared, &stop) => {}
    }
    drop(listener);
    let _ = timeout(LAST_ANSWERS, graceful.shutdown()).await;
    Ok(())
}

/// Waits until the server is asked to stop, and then until all orders that were accepted have ended.
async fn drain(shared: &Shared, stop: &Stop) {
    stop.0.notified().await;
    shared.draining.store(true, SeqCst);
    shared.queue.close();
    let end = Instant::now() + shared.settings.drain;
    let idle = async {
        while !shared.queue.is_idle() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout_at(end, idle).await.is_err() {
        shared.queue.all().iter().for_each(|job| shared.queue.cancel(job));
    }
}
