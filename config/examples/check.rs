//! Checks a configuration file: `cargo run -p portico-config --example check -- portico.toml`.
#![allow(clippy::print_stdout)]

fn main() {
    let path = std::env::args().nth(1).unwrap_or_default();
    match portico_config::load(path.as_ref()) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                println!("{warning}");
            }
            println!("{:#?}", loaded.config);
        }
        Err(mistakes) => println!("{mistakes}"),
    }
}
