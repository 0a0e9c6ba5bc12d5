//! The machine: timer, signals, kill file, lock, control socket, metrics page, what outlives a run, systemd.

pub mod budget_store;
pub mod capacity;
pub mod clock_sync;
pub mod control;
pub mod kill_file;
pub mod last_run;
pub mod lock;
pub mod metrics_page;
pub mod notify;
pub mod own_load;
pub mod panic_stop;
pub mod policy_file;
pub mod privileges;
pub mod signals;
pub mod site_file;
pub mod state_folder;
pub mod timer;
pub mod window;
