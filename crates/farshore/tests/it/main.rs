//! Tests that cross rooms: one binary, a module per theme.
//! (`cfg(test)` is always true here; it tells the linter that helpers may unwrap too.)

#[cfg(test)]
mod access_audit;
#[cfg(test)]
mod access_certificate;
#[cfg(test)]
mod access_files;
#[cfg(test)]
mod access_limits;
#[cfg(test)]
mod access_matrix;
#[cfg(test)]
mod access_tokens;
#[cfg(test)]
mod agent_ask;
#[cfg(test)]
mod api_app_refusals;
#[cfg(test)]
mod api_apps;
#[cfg(test)]
mod api_bench;
#[cfg(test)]
mod api_hub_runners;
#[cfg(test)]
mod api_hub_trust;
#[cfg(test)]
mod api_hubs;
#[cfg(test)]
mod api_life;
#[cfg(test)]
mod api_mobile_services;
#[cfg(test)]
mod api_realtime;
#[cfg(test)]
mod api_refusals;
#[cfg(test)]
mod app_migrate;
#[cfg(test)]
mod app_prompts;
#[cfg(test)]
mod app_region;
#[cfg(test)]
mod app_rig;
#[cfg(test)]
mod app_sdk;
#[cfg(test)]
mod app_sim;
#[cfg(test)]
mod app_tool;
#[cfg(test)]
mod cli_store;
#[cfg(test)]
mod cli_text;
#[cfg(test)]
mod cli_verbs;
#[cfg(test)]
mod cluster_jobs;
#[cfg(test)]
mod cluster_lan;
#[cfg(test)]
mod cluster_names;
#[cfg(test)]
mod cluster_net;
#[cfg(test)]
mod cluster_outage;
#[cfg(test)]
mod cluster_pains;
#[cfg(test)]
mod cluster_partition;
#[cfg(test)]
mod cluster_restore;
#[cfg(test)]
mod cluster_storm;
#[cfg(test)]
mod cluster_tools;
#[cfg(test)]
mod cluster_writer;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod engine_fencing;
#[cfg(test)]
mod engine_jobs;
#[cfg(test)]
mod engine_requests;
#[cfg(test)]
mod engine_return;
#[cfg(test)]
mod engine_sim;
#[cfg(test)]
mod engine_watch;
#[cfg(test)]
mod health_incidents;
#[cfg(test)]
mod hub_device;
#[cfg(test)]
mod hub_fleet;
#[cfg(test)]
mod hub_logs;
#[cfg(test)]
mod hub_place;
#[cfg(test)]
mod hub_reader;
#[cfg(test)]
mod hub_rig;
#[cfg(test)]
mod hub_runners;
#[cfg(test)]
mod hub_sdk_certificates;
#[cfg(test)]
mod hub_sdk_fence;
#[cfg(test)]
mod hub_sdk_fleet;
#[cfg(test)]
mod hub_sdk_merge;
#[cfg(test)]
mod hub_sdk_services;
#[cfg(test)]
mod hub_sdk_ways;
#[cfg(test)]
mod names_concierge;
#[cfg(test)]
mod names_copy;
#[cfg(test)]
mod names_dns;
#[cfg(test)]
mod names_resolve;
#[cfg(test)]
mod names_stage;
#[cfg(test)]
mod netns;
#[cfg(test)]
mod realtime_rig;
#[cfg(test)]
mod realtime_sdk_drain;
#[cfg(test)]
mod realtime_sdk_failover;
#[cfg(test)]
mod realtime_sdk_negotiate;
#[cfg(test)]
mod realtime_sdk_nodes;
#[cfg(test)]
mod realtime_sdk_ops;
#[cfg(test)]
mod realtime_sdk_storm;
#[cfg(test)]
mod trust_cli;
#[cfg(test)]
mod trust_join;
#[cfg(test)]
mod trust_limits;
#[cfg(test)]
mod trust_listen;
