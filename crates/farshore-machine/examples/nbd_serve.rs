//! Serves one raw file over NBD, unreplicated: `nbd_serve FILE SOCKET`. For measuring; ends when its standard input does.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use farshore_machine::nbd::{DiskExport, Exports, Options, Server};
use farshore_machine::raw::RawFile;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(file), Some(socket), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: nbd_serve FILE SOCKET".into());
    };
    let exports = Exports::new();
    exports.insert("", Arc::new(DiskExport::new(Arc::new(RawFile::open(file)?), false)));
    let server = Server::start(Options { unix: Some(socket), exports, ..Options::default() })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    server.stop();
    Ok(())
}
