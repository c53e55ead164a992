//! What people read: every help page, and errors that need no control plane. `TRYCMD=overwrite` writes them anew.

#[test]
fn help_and_errors_read_as_they_did() {
    trycmd::TestCases::new()
        .default_bin_name("farshore")
        .env("FARSHORE_DATA", "nowhere")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .case("tests/cmd/*.trycmd");
}
