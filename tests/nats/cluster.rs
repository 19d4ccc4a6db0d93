//! Three servers of NATS that are one, by what an operator would ask of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Nats;
use crate::support::{PATIENCE, Port, Server};

const NODES: usize = 3;

/// A cluster, whose stream has three replicas.
pub struct Cluster {
    nodes: Vec<Nats>,
    _ports: Vec<Port>,
}

impl Cluster {
    /// Starts it. `None` if there is no `nats-server`.
    pub fn start() -> Option<Self> {
        let ports: Vec<_> = (0..NODES).map(|_| Port::hold()).collect();
        let routes = ports
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{}\"", port.number));
        let routes = routes.collect::<Vec<_>>().join(", ");
        let nodes = ports.iter().enumerate().map(|(n, port)| {
            Nats::with(&format!(
                "server_name: n{n}
                 jetstream {{ store_dir: \"FOLDER/jetstream\" }}
                 cluster {{ name: chat, listen: \"127.0.0.1:{}\", routes: [{routes}] }}",
                port.number
            ))
        });
        let cluster = Self {
            nodes: nodes.collect::<Option<_>>()?,
            _ports: ports,
        };
        cluster.replicate();
        Some(cluster)
    }

    /// A server that uses all of them.
    pub fn serve(&self, args: &[&str]) -> Server {
        let urls: Vec<_> = self.nodes.iter().map(Nats::url).collect();
        Server::with(&[&["--nats", &urls.join(",")], args].concat())
    }

    /// Makes the stream as a server does, but with a replica on each of them.
    fn replicate(&self) {
        let mut server = self.serve(&[]);
        let is_there = |info: &Value| info["config"].is_object();
        let info = self.wait_for("$JS.API.STREAM.INFO.chat", is_there);
        server.stop();
        let mut config = info["config"].clone();
        config["num_replicas"] = json!(NODES);
        // An answer that came too late says nothing, and there is no stream any more at the next attempt.
        let is_gone =
            |answer: &Value| answer["success"] == true || answer["error"]["err_code"] == 10059;
        self.wait_for("$JS.API.STREAM.DELETE.chat", is_gone);
        self.wait_for_answer("$JS.API.STREAM.CREATE.chat", &config, |answer| {
            answer["config"]["num_replicas"] == NODES
        });
        self.level();
    }

    /// Kills the one that leads the stream, and starts it again when there is another leader and
    /// everything that it leads is on both.
    pub fn lose_leader(&mut self) {
        let led = |info: &Value| info["cluster"]["leader"].is_string();
        let info = self.wait_for("$JS.API.STREAM.INFO.chat", led);
        let leader = info["cluster"]["leader"].as_str().unwrap();
        let n: usize = leader.strip_prefix('n').unwrap().parse().unwrap();
        self.nodes[n].kill();
        let old = leader.to_owned();
        self.wait_for("$JS.API.STREAM.INFO.chat", |info| {
            led(info) && info["cluster"]["leader"] != *old
        });
        self.nodes[n].run();
        self.level();
    }

    /// Waits until every replica has everything.
    fn level(&self) {
        self.wait_for("$JS.API.STREAM.INFO.chat", |info| {
            let replicas = info["cluster"]["replicas"].as_array();
            replicas.is_some_and(|all| {
                all.len() == NODES - 1 && all.iter().all(|replica| replica["current"] == true)
            })
        });
    }

    fn wait_for(&self, subject: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_answer(subject, &json!({}), is_right)
    }

    /// Asks one after another of them until an answer is right.
    fn wait_for_answer(
        &self,
        subject: &str,
        question: &Value,
        is_right: impl Fn(&Value) -> bool,
    ) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            for node in &self.nodes {
                let answer = ask(node.port.number, subject, question);
                if let Some(answer) = answer.filter(|answer| is_right(answer)) {
                    return answer;
                }
            }
            assert!(Instant::now() < until, "no answer of {subject} is right");
            thread::yield_now();
        }
    }
}

/// Asks a server of NATS, by its protocol. `None` if it does not answer.
fn ask(port: u16, subject: &str, question: &Value) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE / 20)).ok()?;
    let question = question.to_string();
    let request = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB answer 1\r\n\
         PUB {subject} answer {}\r\n{question}\r\n",
        question.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 || line.starts_with("HMSG") {
            return None; // Nobody is there to answer.
        }
        if let Some(rest) = line.strip_prefix("MSG ") {
            let bytes = rest.trim_end().rsplit(' ').next()?.parse().ok()?;
            let mut answer = vec![0; bytes];
            reader.read_exact(&mut answer).ok()?;
            return serde_json::from_slice(&answer).ok();
        }
    }
}
