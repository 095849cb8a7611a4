//! A model that follows a script: the Messages API of a real agent, over plain HTTP, with the answers written down before.
//!
//! A conversation's turn is chosen by the number of assistant messages in the request, so that a repeated request gets the
//! same answer. Requests without tools (titles, probes) get a harmless text.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};

/// A conversation of an agent is some 100 KB; what is longer is refused.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Request line and headers together.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// JSON of a tool's input that goes into one event, so that clients meet it in pieces.
const PIECE_CHARS: usize = 200;

/// One thing that the model says.
#[derive(Clone, Debug)]
pub(crate) enum Block {
    /// To the user.
    Text(String),
    /// A call of the tool of that name.
    Tool(&'static str, Value),
}

/// One answer of the model.
pub(crate) type Turn = Vec<Block>;

/// What the model was told about one of its calls.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// The call.
    pub(crate) id: String,
    /// Its tool.
    pub(crate) name: String,
    /// What the tool was asked.
    pub(crate) input: Value,
    /// Whether the agent calls it a failure.
    pub(crate) is_error: bool,
    /// What came of it.
    pub(crate) content: String,
}

/// A running server. It ends with the process.
pub(crate) struct Model {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    turns: Vec<Turn>,
    told: Mutex<Vec<Told>>,
    bodies: Mutex<Vec<String>>,
}

impl Model {
    /// Serves that script to whoever connects.
    ///
    /// # Errors
    /// When the listener has no address or a thread can't be started.
    pub(crate) fn serve(listener: TcpListener, turns: Vec<Turn>) -> io::Result<Self> {
        let shared = Arc::new(Shared { turns, told: Mutex::default(), bodies: Mutex::default() });
        let (address, server) = (listener.local_addr()?, Arc::clone(&shared));
        std::thread::Builder::new().name("model".to_owned()).spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let server = Arc::clone(&server);
                // A connection that breaks is the client's own business: it asks again.
                std::thread::spawn(move || drop(server.talk(stream)));
            }
        })?;
        Ok(Self { address, shared })
    }

    /// What the model was told, in the order of its calls.
    pub(crate) fn told(&self) -> Vec<Told> {
        lock(&self.shared.told).clone()
    }

    /// Every byte that any request carried: where a secret must not turn up.
    pub(crate) fn heard(&self, text: &str) -> bool {
        lock(&self.shared.bodies).iter().any(|body| body.contains(text))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

impl Shared {
    fn talk(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = (BufReader::new(stream.try_clone()?), stream);
        while let Some(request) = read_request(&mut reader, &mut writer)? {
            let path = request.path.split('?').next().unwrap_or_default();
            match (request.method.as_str(), path) {
                ("POST", "/v1/messages") => {
                    lock(&self.bodies).push(String::from_utf8_lossy(&request.body).into_owned());
                    match serde_json::from_slice::<Value>(&request.body) {
                        Ok(body) => self.answer(&body, &mut writer)?,
                        Err(error) => send_json(
                            &mut writer,
                            400,
                            &failure("invalid_request_error", &error.to_string()),
                        )?,
                    }
                }
                ("POST", "/v1/messages/count_tokens") => {
                    send_json(&mut writer, 200, &json!({ "input_tokens": 1 + request.body.len() / 4 }))?;
                }
                ("HEAD", _) => writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?,
                _ => send_json(&mut writer, 404, &failure("not_found_error", path))?,
            }
        }
        Ok(())
    }

    fn answer(&self, body: &Value, writer: &mut TcpStream) -> io::Result<()> {
        let messages = list(&body["messages"]);
        self.listen(messages);
        let spoken = messages.iter().filter(|message| message["role"] == "assistant").count();
        let blocks = match self.turns.get(spoken) {
            _ if list(&body["tools"]).is_empty() => vec![Block::Text("A title".to_owned())],
            Some(turn) => turn.clone(),
            None => vec![Block::Text("That is all.".to_owned())],
        };
        let calls = blocks.iter().any(|block| matches!(block, Block::Tool(..)));
        let stop_reason = if calls { "tool_use" } else { "end_turn" };
        let content: Vec<Value> =
            blocks.iter().enumerate().map(|(place, block)| content(spoken, place, block)).collect();
        let message = |content: &[Value], stop_reason: Option<&str>| {
            json!({
                "id": format!("msg_{spoken:024}"), "type": "message", "role": "assistant", "model": body["model"],
                "content": content, "stop_reason": stop_reason, "stop_sequence": null,
                "usage": { "input_tokens": 100, "output_tokens": 20 },
            })
        };
        if body["stream"] != true {
            return send_json(writer, 200, &message(&content, Some(stop_reason)));
        }
        // Chunked, so that the connection can serve the next turn.
        writer.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        let mut event = |data: Value| {
            let text = format!(
                "event: {}\ndata: {data}\n\n",
                data.get("type").and_then(Value::as_str).unwrap_or_default()
            );
            write!(writer, "{:x}\r\n{text}\r\n", text.len())
        };
        event(json!({ "type": "message_start", "message": message(&[], None) }))?;
        for (index, block) in content.iter().enumerate() {
            let (empty, pieces) = in_pieces(block);
            event(json!({ "type": "content_block_start", "index": index, "content_block": empty }))?;
            for delta in pieces {
                event(json!({ "type": "content_block_delta", "index": index, "delta": delta }))?;
            }
            event(json!({ "type": "content_block_stop", "index": index }))?;
        }
        let delta = json!({ "stop_reason": stop_reason, "stop_sequence": null });
        event(json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": 20 } }))?;
        event(json!({ "type": "message_stop" }))?;
        writer.write_all(b"0\r\n\r\n")?;
        writer.flush()
    }

    /// Notes the results in a conversation that were not noted before.
    fn listen(&self, messages: &[Value]) {
        let blocks = || messages.iter().flat_map(|message| list(&message["content"]));
        let mut told = lock(&self.told);
        for result in blocks().filter(|block| block["type"] == "tool_result") {
            let id = result["tool_use_id"].as_str().unwrap_or_default();
            if told.iter().any(|known| known.id == id) {
                continue;
            }
            let call = blocks().find(|block| block["type"] == "tool_use" && block["id"] == id);
            told.push(Told {
                id: id.to_owned(),
                name: call.and_then(|call| call["name"].as_str()).unwrap_or_default().to_owned(),
                input: call.map(|call| call["input"].clone()).unwrap_or_default(),
                is_error: result["is_error"] == true,
                content: text_of(&result["content"]),
            });
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

fn content(turn: usize, place: usize, block: &Block) -> Value {
    match block {
        Block::Text(text) => json!({ "type": "text", "text": text }),
        Block::Tool(name, input) => {
            json!({ "type": "tool_use", "id": format!("toolu_{turn:02}_{place:02}"), "name": name, "input": input })
        }
    }
}

/// A block as a stream begins it, and what completes it.
fn in_pieces(block: &Value) -> (Value, Vec<Value>) {
    if let Some(text) = block.get("text") {
        return (json!({ "type": "text", "text": "" }), vec![json!({ "type": "text_delta", "text": text })]);
    }
    let empty = json!({ "type": "tool_use", "id": block["id"], "name": block["name"], "input": {} });
    let text: Vec<char> = block["input"].to_string().chars().collect();
    let pieces = text.chunks(PIECE_CHARS).map(|piece| piece.iter().collect::<String>());
    (empty, pieces.map(|piece| json!({ "type": "input_json_delta", "partial_json": piece })).collect())
}

fn failure(kind: &str, message: &str) -> Value {
    json!({ "type": "error", "error": { "type": kind, "message": message } })
}

fn send_json(writer: &mut TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let (reason, body) = (if status == 200 { "OK" } else { "Error" }, body.to_string());
    write!(
        writer,
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    writer.flush()
}

/// The next request of a connection; `None` at its end.
fn read_request(reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let room = HEAD_BYTES_MAX.saturating_sub(head.len() as u64);
        if reader.by_ref().take(room).read_until(b'\n', &mut head)? == 0 {
            return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_ascii_lowercase()))
        .collect();
    let header =
        |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    if header("expect") == Some("100-continue") {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        loop {
            let mut line = String::new();
            reader.by_ref().take(64).read_line(&mut line)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            read_exactly(reader, size, &mut body)?;
            reader.read_exact(&mut [0; 2])?;
            if size == 0 {
                break;
            }
        }
    } else {
        let size = header("content-length").unwrap_or("0").parse().map_err(io::Error::other)?;
        read_exactly(reader, size, &mut body)?;
    }
    Ok(Some(Request { method, path, body }))
}

fn read_exactly(reader: &mut BufReader<TcpStream>, size: usize, body: &mut Vec<u8>) -> io::Result<()> {
    if size > BODY_BYTES_MAX.saturating_sub(body.len()) {
        return Err(io::Error::other(format!("a body of more than {BODY_BYTES_MAX} bytes")));
    }
    if reader.by_ref().take(size as u64).read_to_end(body)? < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
