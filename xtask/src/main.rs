//! Tasks of the project's developers.
fn main() -> anyhow::Result<()> {
    Ok(())
}
