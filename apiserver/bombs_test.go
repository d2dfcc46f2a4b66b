package apiserver_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// aliases is a document of YAML that is 9 to the power of depth strings when it is unfolded.
func aliases(depth int) string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\na0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := range depth {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	return b.String()
}

// copies is a patch that doubles what is there with each operation.
func copies(n int) string {
	ops := []string{`{"op":"add","path":"/data/a","value":"` + strings.Repeat("x", 1000) + `"}`}
	for i := range n {
		ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"/data","path":"/data/c%d"}`, i))
	}
	return "[" + strings.Join(ops, ",") + "]"
}

// TestBombsInBodies sends what is small on the wire and large when it is understood.
func TestBombsInBodies(t *testing.T) {
	const most = 400 << 20 // of all that is allocated for one
	s := apiservertest.Start(t, nil)
	admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	api := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1().ConfigMaps("default")
	if _, err := api.Create(t.Context(), configMap("c"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const maps = "/api/v1/namespaces/default/configmaps"
	many := make([]string, 60_000)
	for i := range many {
		many[i] = fmt.Sprint("v", i)
	}
	for name, c := range map[string]struct {
		method, path, form, body string
		codes                    []int
	}{
		"aliases of YAML":         {"POST", maps, "application/yaml", aliases(12), []int{400}},
		"aliases in a patch":      {"PATCH", maps + "/c?fieldManager=x", "application/apply-patch+yaml", aliases(12), []int{400}},
		"depth of YAML":           {"POST", maps, "application/yaml", "a: " + strings.Repeat("[", 1<<20), []int{400}},
		"depth of JSON":           {"POST", maps, "application/json", `{"metadata":` + strings.Repeat(`{"a":`, 500_000), []int{400}},
		"depth of a merge patch":  {"PATCH", maps + "/c", "application/merge-patch+json", strings.Repeat(`{"a":`, 500_000) + "1" + strings.Repeat("}", 500_000), []int{400, 413}},
		"copies that double":      {"PATCH", maps + "/c", "application/json-patch+json", copies(40), []int{400, 413, 422}},
		"body larger than 3 MiB":  {"POST", maps, "application/json", `{"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`, []int{413}},
		"protobuf of no end":      {"POST", maps, "application/vnd.kubernetes.protobuf", "k8s\x00" + strings.Repeat("\x0b", 1<<20), []int{400}},
		"values of a selector":    {"GET", maps + "?labelSelector=" + url.QueryEscape("a in ("+strings.Join(many, ",")+")"), "", "", []int{200, 400}},
		"selector of many labels": {"GET", maps + "?labelSelector=" + strings.Join(many, ","), "", "", []int{200, 400}},
		"selector of fields":      {"GET", maps + "?fieldSelector=" + strings.Repeat("metadata.name%3Da,", 40_000) + "metadata.name%3Da", "", "", []int{200, 400}},
		"brackets of a selector":  {"GET", maps + "?labelSelector=" + strings.Repeat("(", 500_000), "", "", []int{400}},
		"token of pages":          {"GET", maps + "?limit=1&continue=" + strings.Repeat("e30", 200_000), "", "", []int{400}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.form)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			answer, err := s.Transport(admin).RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			runtime.ReadMemStats(&after)
			if !slices.Contains(c.codes, answer.StatusCode) {
				t.Errorf("code = %d, want one of %v", answer.StatusCode, c.codes)
			}
			if spent := after.TotalAlloc - before.TotalAlloc; spent > most {
				t.Errorf("it costs %d MB", spent>>20)
			}
		})
	}
	if code := codeOf(t, s.Transport(admin), maps); code != http.StatusOK {
		t.Errorf("afterwards a list is answered with %d", code)
	}
}

func codeOf(t *testing.T, by http.RoundTripper, path string) int {
	t.Helper()
	answer, err := by.RoundTrip(httptest.NewRequest(http.MethodGet, path, nil))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}
