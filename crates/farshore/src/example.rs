//! A small todo service that is built in: what the demo and the docs host where Node is not there, or is too old to have SQLite.
//!
//! It does what `examples/todo/server.js` does, on the same table: a release of one can be followed by a release of the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path as Segment, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The node takes a snapshot, or restarts the log, in less.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum ExampleError {
    /// The database cannot be used.
    #[error("cannot use the database {path}: {source}")]
    Database {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The port cannot be had, or was lost.
    #[error("cannot serve: {0}")]
    Serve(#[from] std::io::Error),
}

#[derive(Debug, Serialize)]
struct Todo {
    id: String,
    text: String,
    done: bool,
}

#[derive(Debug, Deserialize)]
struct New {
    id: Option<String>,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Change {
    done: bool,
}

#[derive(Debug, Clone)]
struct Todos(Arc<Mutex<Connection>>);

/// Serves todos out of the SQLite file `database` until the process is told to end.
///
/// # Errors
/// When the database or the port cannot be used.
pub async fn todo(listen: SocketAddr, database: &Path) -> Result<(), ExampleError> {
    let todos = Todos::open(database)
        .map_err(|source| ExampleError::Database { path: database.to_owned(), source })?;
    let routes = Router::new()
        .route("/status", get(|| async { StatusCode::OK }))
        .route("/todos", get(all).post(add))
        .route("/todos/{id}", get(one).patch(change).delete(remove))
        .with_state(todos);
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let end = crate::node::interrupted();
    Ok(axum::serve(listener, routes).with_graceful_shutdown(end).await?)
}

impl Todos {
    fn open(database: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(database)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch(
            "create table if not exists todos (id text primary key, text text not null, done integer not null default 0)",
        )?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    fn with<T>(&self, what: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Broken> {
        what(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).map_err(Broken)
    }

    fn find(&self, id: &str) -> Result<Response, Broken> {
        let found = self.with(|database| {
            let mut found = database.prepare("select id, text, done from todos where id = ?1")?;
            found.query_row([id], read).optional()
        })?;
        Ok(match found {
            Some(todo) => Json(todo).into_response(),
            None => (StatusCode::NOT_FOUND, said(&format!("there is no todo {id}"))).into_response(),
        })
    }
}

/// The database failed.
#[derive(Debug)]
struct Broken(rusqlite::Error);

impl IntoResponse for Broken {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, said(&self.0.to_string())).into_response()
    }
}

fn said(error: &str) -> Json<Value> {
    Json(json!({"error": error}))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Todo> {
    Ok(Todo { id: row.get(0)?, text: row.get(1)?, done: row.get(2)? })
}

async fn all(State(todos): State<Todos>) -> Result<Json<Vec<Todo>>, Broken> {
    todos
        .with(|database| {
            let mut all = database.prepare("select id, text, done from todos order by rowid")?;
            all.query_map([], read)?.collect()
        })
        .map(Json)
}

async fn add(State(todos): State<Todos>, Json(new): Json<New>) -> Result<Response, Broken> {
    if new.text.is_empty() {
        return Ok((StatusCode::BAD_REQUEST, said("text is missing")).into_response());
    }
    let id = new.id.unwrap_or_else(|| ulid::Ulid::generate().to_string());
    todos.with(|database| {
        let mut add =
            database.prepare("insert into todos (id, text) values (?1, ?2) on conflict (id) do nothing")?;
        add.execute(params![id, new.text])
    })?;
    let mut answer = todos.find(&id)?;
    *answer.status_mut() = StatusCode::CREATED;
    Ok(answer)
}

async fn one(State(todos): State<Todos>, Segment(id): Segment<String>) -> Result<Response, Broken> {
    todos.find(&id)
}

async fn change(
    State(todos): State<Todos>,
    Segment(id): Segment<String>,
    Json(change): Json<Change>,
) -> Result<Response, Broken> {
    todos.with(|database| {
        database.execute("update todos set done = ?1 where id = ?2", params![change.done, id])
    })?;
    todos.find(&id)
}

async fn remove(State(todos): State<Todos>, Segment(id): Segment<String>) -> Result<Response, Broken> {
    let removed = todos.with(|database| database.execute("delete from todos where id = ?1", [&id]))?;
    Ok(match removed {
        0 => (StatusCode::NOT_FOUND, said(&format!("there is no todo {id}"))).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    })
}
