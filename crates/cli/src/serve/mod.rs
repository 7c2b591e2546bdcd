//! `serve`: the report of a run as a local web page that follows the run.
//!
//! There are four addresses and no others: the page, the report, the events, the status. None takes a path or a
//! parameter, and nothing is written, so that only the run's readings can be reached and nothing can be changed.

mod connections;
mod watch;

use std::convert::Infallible;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use connections::Bounded;
use futures_util::Stream;
use nettriage_records::Run;
use tokio::net::TcpListener;

use crate::args;
use crate::fail::Fail;

const PAGE: &str = include_str!("page.html");
/// The page contains its style and script, receives events, and shows the report in a frame.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; frame-src 'self'; frame-ancestors 'self'";

/// What every request sees.
struct Served {
    run: Run,
    news: tokio::sync::watch::Receiver<String>,
    /// Whether only this machine can ask, by one of its own names.
    loopback: bool,
}

/// `nettriage serve RUN`.
pub fn serve(args: &args::Serve) -> Result<(), Fail> {
    let run = Run::open(&args.run)?.read_only();
    let address = SocketAddr::new(args.host, args.port);
    let news = watch::begin(Run::open(&args.run)?.read_only())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let failed = |error: std::io::Error| {
            Fail::Message(format!("{address}: {error}; choose another --port (0 takes any that is free) or --host"))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr()?;
        writeln!(std::io::stdout().lock(), "{} at http://{bound}/ (Ctrl-C ends it)", args.run.display())?;
        if !is_loopback(args.host) {
            eprintln!("note: everyone who can reach {bound} can read this run");
        }
        let served = Arc::new(Served { run, news, loopback: is_loopback(args.host) });
        let routes = Router::new()
            .route("/", get(page))
            .route("/report", get(whole_report))
            .route("/events", get(events))
            .route("/status.json", get(status))
            .layer(middleware::from_fn_with_state(served.clone(), guard))
            .with_state(served);
        Ok(axum::serve(Bounded::new(listener), routes).await?)
    })
}

fn is_loopback(host: IpAddr) -> bool {
    host.is_loopback()
}

/// Refuses requests under foreign names (a page elsewhere whose name is made to point here), and forbids caching.
async fn guard(State(served): State<Arc<Served>>, request: Request, next: Next) -> Response {
    let name = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if served.loopback && !name.is_some_and(is_own_name) {
        return (StatusCode::FORBIDDEN, "use the address that `nettriage serve` printed\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn is_own_name(host: &str) -> bool {
    let Ok(uri) = host.parse::<Uri>() else { return false };
    let name = uri.host().unwrap_or_default();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)], PAGE)
}

/// The same page as `nettriage report` writes, of the records so far.
async fn whole_report(State(served): State<Arc<Served>>) -> Response {
    // Of a large run it takes seconds: not in the thread that serves events.
    let made = tokio::task::spawn_blocking(move || nettriage::page(served.run.folder())).await;
    match made {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the report could not be made\n").into_response(),
    }
}

async fn status(State(served): State<Arc<Served>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], served.news.borrow().clone())
}

/// The state now, then every change of it.
async fn events(State(served): State<Arc<Served>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut news = served.news.clone();
    news.mark_changed();
    let stream = futures_util::stream::unfold(news, |mut news| async {
        // An error means that no browser is connected any more.
        news.changed().await.ok()?;
        let text = news.borrow_and_update().clone();
        Some((Ok(Event::default().data(text)), news))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10)))
}

#[cfg(test)]
mod tests {
    use super::is_own_name;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for own in ["localhost", "localhost:7340", "127.0.0.1:7340", "127.0.0.1", "[::1]:7340"] {
            assert!(is_own_name(own), "{own}");
        }
        for foreign in ["example.org", "example.org:7340", "localhost.example.org", "10.0.0.1:7340", "", "a b"] {
            assert!(!is_own_name(foreign), "{foreign}");
        }
    }
}
