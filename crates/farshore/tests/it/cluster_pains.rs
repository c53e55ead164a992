//! What goes wrong elsewhere, and the test at cluster level that shows that it does not here.
//!
//! | pain | test |
//! |---|---|
//! | both sides secondary and no legal verb | `cluster_outage::an_item_that_stopped_by_itself_is_served_again_when_the_store_is_back` |
//! | a restored control plane acts on stale intent | `cluster_restore::a_store_restored_from_before_a_failover_acts_on_nothing_until_a_person_decides` |
//! | a store hiccup demotes a healthy primary | `cluster_outage::a_store_that_is_away_for_a_while_demotes_nobody` |
//! | two primaries under partition | `cluster_partition`, `cluster_storm::two_regions_that_lost_each_other_but_not_the_third_never_both_serve` |
//! | stale reads flip roles | `cluster_jobs::what_a_frozen_executor_still_orders_when_it_thaws_changes_nothing` |
//! | names answer differently by region | `cluster_names::no_name_points_at_the_old_region_once_another_has_the_item` |
//! | jobs die with the process | `cluster_jobs::a_job_whose_control_node_is_killed_is_ended_by_another` |
//! | the recovery needs something in the failed region | `cluster_outage::a_region_that_is_killed_with_its_member_and_control_node_is_failed_over_by_itself` |
//! | no cancel, or a cancel that wedges the queue | `engine_jobs::cancelled_while_it_waits_a_job_unwinds_to_the_clean_slate` |
//! | a green banner over an unfinished clean-up | `engine_jobs::a_failure_at_each_order_unwinds_or_is_stuck_and_retried` |
//! | documentation that tells people to delete the source | `docs::no_page_tells_people_to_delete_what_was_lost` |
//! | failback that cannot be scripted | `docs::the_page_on_going_home_tells_commands_that_work` |
//! | "green replication" that was never failed over | `engine::health::findings::tests::an_old_drill_is_a_warning_and_a_new_one_is_none` |
//! | conditions that never turn true again | `health_incidents::a_lost_region_opens_an_incident_that_closes_when_it_is_back` |
//! | recovery of jobs stops at the first bad one | `engine_requests::a_bad_record_stops_no_other_job` |
//!
//! Without a test, because without the thing: hooks after a drill's clean-up.
