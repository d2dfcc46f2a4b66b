package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSignals: metrics are compared by name and labels, health checks by name, and neither by value.
func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name, contentType, body string
		want                    any
	}{
		{"metrics", "text/plain; version=0.0.4; charset=utf-8", `# HELP a_total Help with {braces="x"}.
# TYPE a_total counter
a_total{code="200",verb="GET"} 3
a_total{code="200",path="a\",b=\"c"} 1
# TYPE b histogram
b_bucket{verb="GET",le="1"} 1
b_sum{verb="GET"} 1
# TYPE c gauge
c 1
`, map[string]any{"a_total": "code,path,verb", "b": "verb", "c": ""}},
		{"checks", "text/plain; charset=utf-8", "[+]ping ok\n[-]a/b failed: reason withheld\nlivez check failed\n", map[string]any{"ping": "check", "a/b": "check"}},
		{"any other text", "text/plain; charset=utf-8", "ok", "ok"},
	} {
		if diff := cmp.Diff(c.want, decode(c.contentType, []byte(c.body))); diff != "" {
			t.Errorf("%s (- want, + got):\n%s", c.name, diff)
		}
	}
}
