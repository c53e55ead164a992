//! Fills the store of a stopped node with copies of an item, for measurements: `control_seed CONFIG NAME COPIES`.
//!
//! The copies `copy-0`, `copy-1`, … have the records of machine NAME (its own and its entry in the directory), word for
//! word but for the name. Prints how many keys were written as JSON.

use std::error::Error;
use std::path::Path;

use farshore::config::NodeConfig;
use farshore::node::open_store;
use farshore_core::store::{Entry, Transaction, Write};
use serde_json::json;

/// Below the limit of a transaction, and of its bytes with records of some kilobytes.
const WRITES_PER_TRANSACTION: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, name, copies] = arguments.as_slice() else {
        return Err("call it as control_seed CONFIG NAME COPIES".into());
    };
    farshore::trust::provider();
    let copies: u32 = copies.parse()?;
    let config = NodeConfig::load(Path::new(config), std::iter::empty())?;
    let store = open_store(&config)?;
    let mut pattern = Vec::new();
    for prefix in [format!("items/machine/{name}/own"), format!("directory/{name}.machine")] {
        let (entries, _) = store.list(&prefix).await?;
        pattern.extend(entries);
    }
    if pattern.len() != 2 {
        return Err(
            format!("machine {name} has {} records instead of 2: protect it first", pattern.len()).into()
        );
    }
    let writes = (0..copies)
        .flat_map(|number| pattern.iter().map(move |entry| copy(entry, name, &format!("copy-{number}"))));
    let writes = writes.collect::<Result<Vec<_>, _>>()?;
    for chunk in writes.chunks(WRITES_PER_TRANSACTION) {
        store.commit(Transaction { compares: Vec::new(), writes: chunk.to_vec() }).await?;
    }
    println!("{}", json!({ "keys": writes.len() }));
    Ok(())
}

fn copy(entry: &Entry, name: &str, new: &str) -> Result<Write, std::string::FromUtf8Error> {
    let value = String::from_utf8(entry.value.clone())?;
    Ok(Write::Put(entry.key.replace(name, new), value.replace(name, new).into_bytes()))
}
