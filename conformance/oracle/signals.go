package main

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// signalCases ask for what watches over servers: metrics by name and labels, health checks by name. Their values are
// not compared. Names that are meant to differ are in signals.yaml.
func signalCases() []testCase {
	var cases []testCase
	for _, path := range []string{"/healthz?verbose", "/livez?verbose", "/readyz?verbose", "/metrics/slis", "/metrics"} {
		cases = append(cases, testCase{Name: "signals", Requests: []request{{Method: http.MethodGet, Path: path, Code: http.StatusOK}}})
	}
	return cases
}

var (
	checkLine  = regexp.MustCompile(`(?m)^\[[+-]\](\S+) `)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? `)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="(?:[^"\\]|\\.)*"`)
)

// healthChecks are the names of the checks in a verbose report; nil if it is none.
func healthChecks(report string) map[string]any {
	var checks map[string]any
	for _, m := range checkLine.FindAllStringSubmatch(report, -1) {
		if checks == nil {
			checks = make(map[string]any)
		}
		checks[m[1]] = "check"
	}
	return checks
}

// metricFamilies are the names of metrics, each with the names of its labels.
func metricFamilies(exposition string) map[string]any {
	labels := make(map[string][]string)
	family := ""
	for line := range strings.Lines(exposition) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			family, _, _ = strings.Cut(rest, " ")
			labels[family] = nil
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || !strings.HasPrefix(m[1], family) {
			continue
		}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if name := pair[1]; name != "le" && name != "quantile" && !slices.Contains(labels[family], name) {
				labels[family] = append(labels[family], name)
			}
		}
	}
	families := make(map[string]any, len(labels))
	for name, list := range labels {
		slices.Sort(list)
		families[name] = strings.Join(list, ",")
	}
	return families
}
