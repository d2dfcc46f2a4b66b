package openapi

import (
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// With -upstream, TestUpstream asks a Kubernetes server (by way of "kubectl
// proxy") instead of its record, shows how documents differ from ours, and
// writes the record anew.
var upstream = flag.String("upstream", "", "URL of a Kubernetes API server to compare with and to record")

const recordFile = "testdata/upstream.txt"

//go:embed testdata/upstream.txt
var record string

// TestUpstream compares all definitions and paths with those of Kubernetes
// 1.36.3: what is served here must be described alike, to the letter.
func TestUpstream(t *testing.T) {
	h, _ := standard(t)
	got := parts(func(path string, v any) {
		if err := json.Unmarshal(content(t, get(t, h, path)), v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	})
	for _, kind := range []string{"DeleteOptions", "WatchEvent"} {
		withoutMetrics(got["v2 definition io.k8s.apimachinery.pkg.apis.meta.v1."+kind])
	}
	want, live := readRecord(), map[string]any(nil)
	if *upstream != "" {
		live = parts(func(path string, v any) { fetch(t, *upstream+path, v) })
		want = make(map[string]string)
		for part, value := range live {
			want[part] = digest(value)
		}
		writeRecord(t, want)
	}
	compared := 0
	for _, part := range slices.Sorted(maps.Keys(got)) {
		recorded, known := want[part]
		switch {
		case !known:
			t.Errorf("%s: upstream has none", part)
		case part == "v3 document api/v1": // lacks ComponentStatus
		case recorded != digest(got[part]):
			t.Errorf("%s differs from upstream's; got %s", part, text(t, got[part]))
			if live != nil {
				t.Logf("upstream (-), got (+):\n%s", cmp.Diff(live[part], got[part]))
			}
		default:
			compared++
		}
	}
	if compared < 1000 {
		t.Errorf("only %d definitions and paths compared, want more than 1000", compared)
	}
	t.Logf("%d definitions and paths of %d are upstream's; upstream has %d", compared, len(got), len(want))
}

// withoutMetrics takes out of a definition that it is of the group metrics.k8s.io
// too, which Kubernetes serves by an extension server alone.
func withoutMetrics(definition any) {
	d := definition.(map[string]any)
	d[extensionGVK] = slices.DeleteFunc(d[extensionGVK].([]any), func(kind any) bool {
		return kind.(map[string]any)["group"] == "metrics.k8s.io"
	})
}

func fetch(t *testing.T, url string, v any) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %s: %v", url, r.Status, err)
	}
}

// parts are all definitions and paths a server publishes, in both versions, and
// the hashes by which documents of version 3 are known.
// Documents of OpenAPI 3 define what they share each for themselves; a
// definition that is not alike in all of them names its document.
func parts(read func(path string, v any)) map[string]any {
	all := make(map[string]any)
	add := func(what string, values any, document string) {
		for name, v := range values.(map[string]any) {
			part := what + " " + name
			if other, ok := all[part]; ok && digest(other) != digest(v) {
				part += " in " + document
			}
			all[part] = v
		}
	}
	var at index
	read(PathV3, &at)
	for _, path := range slices.Sorted(maps.Keys(at.Paths)) {
		all["v3 document "+path] = at.Paths[path]
		var doc map[string]any
		read(PathV3+"/"+path, &doc)
		add("v3 path", doc["paths"], path)
		if schemas := doc["components"].(map[string]any)["schemas"]; schemas != nil {
			add("v3 definition", schemas, path)
		}
	}
	var doc map[string]any
	read(PathV2, &doc)
	add("v2 definition", doc["definitions"], PathV2)
	add("v2 path", doc["paths"], PathV2)
	add("v2 parameter", doc["parameters"], PathV2)
	return all
}

func digest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%.6x", sha256.Sum256(b))
}

func readRecord() map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(record) {
		if sum, part, ok := strings.Cut(strings.TrimSpace(line), " "); ok && sum != "#" {
			all[part] = sum
		}
	}
	return all
}

func writeRecord(t *testing.T, all map[string]string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# Digests of what Kubernetes 1.36.3 publishes. Recorded by\n")
	b.WriteString("# go test ./apiserver/openapi -run Upstream -upstream http://localhost:8001\n")
	for _, part := range slices.Sorted(maps.Keys(all)) {
		b.WriteString(all[part] + " " + part + "\n")
	}
	if err := os.WriteFile(recordFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
