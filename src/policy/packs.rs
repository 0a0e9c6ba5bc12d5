//! Well-known HTTP metrics, and the guard queries that can be made of them.
//!
//! `replay init --prometheus` lists the metric names of a Prometheus and looks here for those it knows. Every
//! query made here passes [`super::promql::check`], and has the form of `docs/GOVERNOR.md`: the errors may be
//! absent, the whole may not. Only names and labels are known here, never whether a label really exists. That
//! must be asked ([`Pack::status_query`], [`Pack::buckets_query`]) before a guard is written down: an error
//! guard on a label that nobody sets would read as health for ever. Pure: it asks nothing itself.

/// Metrics of one kind of server, as its own documentation names them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pack {
    /// For the reader.
    pub name: &'static str,
    /// Metric names that must all exist. The histogram of `latency` is not among them, since many servers
    /// have it switched off: [`Self::buckets_query`] tells.
    pub needs: &'static [&'static str],
    /// Label with the status or its class; `None`: errors cannot be told from the rest.
    pub status_label: Option<&'static str>,
    /// Matcher of answers that are the server's fault, on `status_label`.
    pub error_match: Option<&'static str>,
    /// Counter of requests, or of answers where only those carry a status.
    pub requests: &'static str,
    /// Histogram of durations.
    pub latency: Option<Latency>,
    /// Matchers that every selector needs, or empty: they drop series that count a request twice, or that
    /// count what no user asked for. Right on the histogram, too.
    pub only: &'static str,
    /// Labels that usually name the host or service, most specific first. `exported_x` is what Prometheus
    /// makes of a label `x` of the server's own that its discovery sets as well.
    pub scope_labels: &'static [&'static str],
}

/// A classic histogram of durations: one series per `le`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// Series of the buckets.
    pub bucket: &'static str,
    /// Series that counts all observations.
    pub count: &'static str,
    /// What one second is in `le`: 1 for seconds, 1000 for milliseconds.
    pub unit_per_second: f64,
}

const SECONDS: f64 = 1.0;
const MILLISECONDS: f64 = 1_000.0;

/// How far below the wanted latency a bucket may be and still be it: room for one rounding of a product.
const LE_ROUNDING: f64 = 1e-9;

/// The histogram of that name, in that unit.
macro_rules! histogram {
    ($name:literal, $unit:expr) => {
        Some(Latency {
            bucket: concat!($name, "_bucket"),
            count: concat!($name, "_count"),
            unit_per_second: $unit,
        })
    };
}

/// All packs, best first: closest to users, so balancers, then the mesh, then applications. Among these, names
/// of one product come before names that anybody may use. Last is the one that cannot tell errors.
///
/// One metric may be here under several status labels; [`Pack::status_query`] tells which one is in use. The
/// handler of `/metrics` itself (`promhttp_metric_handler_requests_total`) is left out on purpose: its only
/// user is Prometheus.
pub const PACKS: &[Pack] = &[
    // kubernetes.github.io/ingress-nginx/user-guide/monitoring and its collectors/socket.go. `status` is a
    // code, or a class ("5xx") with --report-status-classes. `host` is absent with --metrics-per-host=false.
    Pack {
        name: "ingress-nginx",
        needs: &["nginx_ingress_controller_requests"],
        status_label: Some("status"),
        error_match: Some(r#"status=~"5..""#),
        requests: "nginx_ingress_controller_requests",
        latency: histogram!("nginx_ingress_controller_request_duration_seconds", SECONDS),
        only: "",
        scope_labels: &["host", "ingress", "exported_service", "service"],
    },
    // haproxy addons/promex/README (label `proxy`); the older haproxy_exporter has the same names (label
    // `frontend`). Only answers carry a code, so they are also the whole. Durations exist as averages over the
    // last 1024 requests only (haproxy_backend_response_time_average_seconds): no share can be made of them.
    Pack {
        name: "HAProxy frontends",
        needs: &["haproxy_frontend_http_responses_total"],
        status_label: Some("code"),
        error_match: Some(r#"code="5xx""#),
        requests: "haproxy_frontend_http_responses_total",
        latency: None,
        only: "",
        scope_labels: &["proxy", "frontend"],
    },
    // doc.traefik.io/traefik, "Metrics", service metrics. Buckets by default: 0.1, 0.3, 1.2, 5.
    Pack {
        name: "Traefik services",
        needs: &["traefik_service_requests_total"],
        status_label: Some("code"),
        error_match: Some(r#"code=~"5..""#),
        requests: "traefik_service_requests_total",
        latency: histogram!("traefik_service_request_duration_seconds", SECONDS),
        only: "",
        scope_labels: &["exported_service", "service"],
    },
    // github.com/vozlt/nginx-module-vts, display_prometheus.h. Host "*" is the sum of all others. The
    // histogram exists with `vhost_traffic_status_histogram_buckets`.
    Pack {
        name: "nginx, module VTS",
        needs: &["nginx_vts_server_requests_total"],
        status_label: Some("code"),
        error_match: Some(r#"code="5xx""#),
        requests: "nginx_vts_server_requests_total",
        latency: histogram!("nginx_vts_server_request_duration_seconds", SECONDS),
        only: r#"host!="*""#,
        scope_labels: &["host"],
    },
    // caddyserver.com/docs/metrics and caddyhttp/metrics.go. caddy_http_requests_total has no code, so the
    // histogram counts. A request is observed once per handler on its way, so scope by `handler` where there
    // is more than one; before pull request 5979 Caddy's own 502 were not observed at all.
    Pack {
        name: "Caddy",
        needs: &["caddy_http_request_duration_seconds_count"],
        status_label: Some("code"),
        error_match: Some(r#"code=~"5..""#),
        requests: "caddy_http_request_duration_seconds_count",
        latency: histogram!("caddy_http_request_duration_seconds", SECONDS),
        only: "",
        scope_labels: &["host", "server", "handler"],
    },
    // envoyproxy.io/docs, "HTTP connection manager", "Statistics"; the class becomes a label. Prefix "admin"
    // is the page that Prometheus reads.
    Pack {
        name: "Envoy listeners",
        needs: &["envoy_http_downstream_rq_xx"],
        status_label: Some("envoy_response_code_class"),
        error_match: Some(r#"envoy_response_code_class="5""#),
        requests: "envoy_http_downstream_rq_xx",
        latency: histogram!("envoy_http_downstream_rq_time", MILLISECONDS),
        only: r#"envoy_http_conn_manager_prefix!="admin""#,
        scope_labels: &["envoy_http_conn_manager_prefix"],
    },
    // istio.io/docs/reference/config/metrics. Both ends report a request. "source" is the client's proxy or a
    // gateway: it also sees what never reached the server.
    Pack {
        name: "Istio",
        needs: &["istio_requests_total"],
        status_label: Some("response_code"),
        error_match: Some(r#"response_code=~"5..""#),
        requests: "istio_requests_total",
        latency: histogram!("istio_request_duration_milliseconds", MILLISECONDS),
        only: r#"reporter="source""#,
        scope_labels: &["destination_service", "destination_service_name", "destination_workload"],
    },
    // docs.spring.io/spring-boot, "Metrics"; Quarkus likewise. Buckets exist with
    // management.metrics.distribution.percentiles-histogram.http.server.requests.
    Pack {
        name: "Micrometer (Spring Boot, Quarkus)",
        needs: &["http_server_requests_seconds_count"],
        status_label: Some("status"),
        error_match: Some(r#"status=~"5..""#),
        requests: "http_server_requests_seconds_count",
        latency: histogram!("http_server_requests_seconds", SECONDS),
        only: "",
        scope_labels: &["application", "service", "job"],
    },
    // opentelemetry.io/docs/specs/semconv/http/http-metrics, `http.server.request.duration` in seconds.
    Pack {
        name: "OpenTelemetry (ASP.NET Core and others)",
        needs: &["http_server_request_duration_seconds_count"],
        status_label: Some("http_response_status_code"),
        error_match: Some(r#"http_response_status_code=~"5..""#),
        requests: "http_server_request_duration_seconds_count",
        latency: histogram!("http_server_request_duration_seconds", SECONDS),
        only: "",
        scope_labels: &["service_name", "exported_job", "job"],
    },
    // github.com/django-commons/django-prometheus, middleware.py; the client adds the last `_total`.
    Pack {
        name: "Django",
        needs: &["django_http_responses_total_by_status_total"],
        status_label: Some("status"),
        error_match: Some(r#"status=~"5..""#),
        requests: "django_http_responses_total_by_status_total",
        latency: histogram!("django_http_requests_latency_including_middlewares_seconds", SECONDS),
        only: "",
        scope_labels: &["service", "job"],
    },
    // pkg.go.dev/github.com/prometheus/client_golang, promhttp: the usual name, and its label `code`.
    Pack {
        name: "http_requests_total by code",
        needs: &["http_requests_total"],
        status_label: Some("code"),
        error_match: Some(r#"code=~"5..""#),
        requests: "http_requests_total",
        latency: histogram!("http_request_duration_seconds", SECONDS),
        only: "",
        scope_labels: &["service", "app", "job"],
    },
    // prometheus-fastapi-instrumentator (Python package), README: `status` is a class ("5xx") by default.
    Pack {
        name: "http_requests_total by status",
        needs: &["http_requests_total"],
        status_label: Some("status"),
        error_match: Some(r#"status=~"5..""#),
        requests: "http_requests_total",
        latency: histogram!("http_request_duration_seconds", SECONDS),
        only: "",
        scope_labels: &["service", "app", "job"],
    },
    // express-prom-bundle (Node package), README.
    Pack {
        name: "http_request_duration_seconds by status_code (Express)",
        needs: &["http_request_duration_seconds_count"],
        status_label: Some("status_code"),
        error_match: Some(r#"status_code=~"5..""#),
        requests: "http_request_duration_seconds_count",
        latency: histogram!("http_request_duration_seconds", SECONDS),
        only: "",
        scope_labels: &["service", "app", "job"],
    },
    // github.com/nginx/nginx-prometheus-exporter, "Stub status metrics": a count without any label.
    Pack {
        name: "nginx, stub status (no errors, no durations)",
        needs: &["nginx_http_requests_total"],
        status_label: None,
        error_match: None,
        requests: "nginx_http_requests_total",
        latency: None,
        only: "",
        scope_labels: &["job", "instance"],
    },
];

/// The packs whose needed metrics are all among `names`, best first.
#[must_use]
pub fn found(names: &[String]) -> Vec<&'static Pack> {
    PACKS.iter().filter(|p| p.needs.iter().all(|need| names.iter().any(|n| n == need))).collect()
}

/// In each query `scope` is selector text such as `service="checkout",replay=""`, or empty, and `range` a
/// duration such as `1m`. Both go into the query as they are.
impl Pack {
    /// Requests per second.
    #[must_use]
    pub fn requests_expr(&self, scope: &str, range: &str) -> String {
        rate(self.requests, &[scope, self.only], range)
    }

    /// Share of requests that failed. `None` where errors cannot be told.
    ///
    /// Zero, and not absent, while there are requests and none failed.
    #[must_use]
    pub fn errors_expr(&self, scope: &str, range: &str) -> Option<String> {
        let failed = rate(self.requests, &[scope, self.only, self.error_match?], range);
        Some(format!("({failed} or vector(0)) / {}", self.requests_expr(scope, range)))
    }

    /// Share of requests that took longer than the bucket `le`, which must be spelled as Prometheus has it:
    /// see [`choose_le`]. `None` without a histogram.
    #[must_use]
    pub fn slow_expr(&self, scope: &str, range: &str, le: &str) -> Option<String> {
        let latency = self.latency?;
        let fast = rate(latency.bucket, &[scope, self.only, &format!(r#"le="{le}""#)], range);
        Some(format!("1 - {fast} / {}", rate(latency.count, &[scope, self.only], range)))
    }

    /// Asks which buckets exist, one series per `le`. An empty answer: no histogram, hence no latency guard.
    #[must_use]
    pub fn buckets_query(&self) -> Option<String> {
        Some(format!("count by (le) ({})", selector(self.latency?.bucket, &[self.only])))
    }

    /// Asks which statuses there are, one series per value. If the only series has no `status_label`, nobody
    /// sets that label, and [`Self::errors_expr`] must not be used.
    #[must_use]
    pub fn status_query(&self, scope: &str) -> Option<String> {
        Some(format!("count by ({}) ({})", self.status_label?, selector(self.requests, &[scope, self.only])))
    }
}

/// The smallest finite bucket at or above `wanted_s`, among the `le` values that exist.
///
/// They are taken and given back as text, since a selector compares text: `1`, `1.0` and `1.000` are the same
/// bucket from three servers, and a number printed again would match but one of them. Of two spellings of one
/// number the first counts; a guard on it reads too slow, never too fast.
#[must_use]
pub fn choose_le(unit_per_second: f64, les: &[String], wanted_s: f64) -> Option<String> {
    let wanted = wanted_s * unit_per_second * (1.0 - LE_ROUNDING);
    les.iter()
        .filter_map(|text| Some((text.parse::<f64>().ok()?, text)))
        .filter(|(le, _)| le.is_finite() && *le >= wanted)
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, text)| text.clone())
}

fn rate(metric: &str, matchers: &[&str], range: &str) -> String {
    format!("sum(rate({}[{range}]))", selector(metric, matchers))
}

/// The metric with those matchers that are not empty.
fn selector(metric: &str, matchers: &[&str]) -> String {
    let given: Vec<&str> = matchers
        .iter()
        .map(|m| m.trim_matches(|c: char| c == ',' || c.is_whitespace()))
        .filter(|m| !m.is_empty())
        .collect();
    if given.is_empty() { metric.to_owned() } else { format!("{metric}{{{}}}", given.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::promql::check;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn names(list: &[&str]) -> Vec<&'static str> {
        found(&texts(list)).iter().map(|p| p.name).collect()
    }

    fn pack(name: &str) -> &'static Pack {
        PACKS.iter().find(|p| p.name == name).unwrap()
    }

    #[test]
    fn every_query_passes_the_check() {
        for pack in PACKS {
            for scope in ["", r#"service="checkout",replay="""#, r#" job="x", "#] {
                let mut all = vec![pack.requests_expr(scope, "1m")];
                all.extend(pack.errors_expr(scope, "1m"));
                all.extend(pack.slow_expr(scope, "1m", "0.5"));
                all.extend(pack.buckets_query());
                all.extend(pack.status_query(scope));
                for text in all {
                    let query = check(&text).unwrap_or_else(|e| panic!("{}: {text}: {e}", pack.name));
                    assert_eq!(query.freshness.len(), 1, "{text}: {:?}", query.freshness);
                    let untidy = ["{,", ",,", ",}", "{}", ", }"].iter().any(|bad| text.contains(bad));
                    assert!(!untidy, "{text}");
                }
            }
        }
    }

    #[test]
    fn queries_are_spelled_as_documented() {
        let spring = pack("Micrometer (Spring Boot, Quarkus)");
        let x = "http_server_requests_seconds";
        assert_eq!(spring.requests_expr("", "1m"), format!("sum(rate({x}_count[1m]))"));
        let errors = format!(r#"(sum(rate({x}_count{{a="b",status=~"5.."}}[2m])) or vector(0)) / "#);
        assert_eq!(
            spring.errors_expr(r#"a="b""#, "2m").unwrap(),
            errors + &format!(r#"sum(rate({x}_count{{a="b"}}[2m]))"#)
        );
        assert_eq!(
            spring.slow_expr("", "1m", "0.5").unwrap(),
            format!(r#"1 - sum(rate({x}_bucket{{le="0.5"}}[1m])) / sum(rate({x}_count[1m]))"#)
        );
        assert_eq!(spring.buckets_query().unwrap(), format!("count by (le) ({x}_bucket)"));
        assert_eq!(
            pack("Istio").status_query(r#"a="b""#).unwrap(),
            r#"count by (response_code) (istio_requests_total{a="b",reporter="source"})"#
        );
        let stub = pack("nginx, stub status (no errors, no durations)");
        assert_eq!((stub.errors_expr("", "1m"), stub.slow_expr("", "1m", "1")), (None, None));
        assert_eq!((stub.buckets_query(), stub.status_query("")), (None, None));
    }

    #[test]
    fn packs_agree_with_themselves() {
        for (i, pack) in PACKS.iter().enumerate() {
            assert!(PACKS[..i].iter().all(|p| p.name != pack.name), "{} twice", pack.name);
            assert!(pack.needs.contains(&pack.requests), "{}", pack.name);
            assert!(!pack.requests.starts_with("promhttp_"), "{}", pack.name);
            let starts = pack.error_match.map(|m| m.starts_with(pack.status_label.unwrap()));
            assert_eq!(starts, pack.status_label.map(|_| true), "{}", pack.name);
        }
    }

    #[test]
    fn closest_to_users_comes_first() {
        let mesh = ["http_requests_total", "istio_requests_total", "nginx_ingress_controller_requests"];
        let order =
            ["ingress-nginx", "Istio", "http_requests_total by code", "http_requests_total by status"];
        assert_eq!(names(&mesh), order);
        let stub = names(&["nginx_http_requests_total", "http_server_requests_seconds_count"]);
        assert_eq!(stub.last(), Some(&"nginx, stub status (no errors, no durations)"));
        assert_eq!(
            found(&PACKS.iter().map(|p| p.requests.to_owned()).collect::<Vec<_>>()).len(),
            PACKS.len()
        );
    }

    #[test]
    fn only_whole_names_are_taken() {
        let others = [
            "promhttp_metric_handler_requests_total",
            "prometheus_http_requests_total",
            "haproxy_frontend_http_requests_total",
            "http_server_requests_seconds_bucket",
            "caddy_http_requests_total",
            "",
        ];
        assert_eq!(names(&others), [""; 0]);
        assert_eq!(names(&[]), [""; 0]);
    }

    #[test]
    fn the_bucket_at_or_above_is_chosen() {
        #[rustfmt::skip]
        let table: [(f64, &[&str], f64, Option<&str>); 9] = [
            (1.0,     &["0.1", "0.5", "1", "+Inf"],  0.5,      Some("0.5")),
            (1.0,     &["+Inf", "2.5", "1.0"],       0.6,      Some("1.0")), // text as it came, any order
            (1_000.0, &["250", "500", "1e+03"],      0.5,      Some("500")),
            (1_000.0, &["250", "500", "1e+03"],      0.75,     Some("1e+03")),
            (1_000.0, &["2300"],                     2.3,      Some("2300")), // rounding is no reason to skip
            (1.0,     &["0.500", "0.5"],             0.5,      Some("0.500")),
            (1.0,     &["0.1", "+Inf", "NaN", "x"],  0.5,      None),
            (1.0,     &["0.1", "1"],                 f64::NAN, None),
            (1.0,     &[],                           0.5,      None),
        ];
        for (unit, les, wanted, chosen) in table {
            assert_eq!(choose_le(unit, &texts(les), wanted).as_deref(), chosen, "{les:?} for {wanted}");
        }
    }
}
