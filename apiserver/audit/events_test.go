package audit_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/audit"
)

// script is what is asked (requests.yaml) and what is written down of each (events.json).
type asked struct {
	As, Method, Path, Type, Accept, Body string
	Headers                              map[string]string
}

func (a asked) String() string {
	return strings.TrimSpace(fmt.Sprint(a.As, " ", a.Method, " ", a.Path, " ", a.Accept, a.Type, " ", a.Body))
}

// tokens are those of the users, but for anonymous. That of wrong is nobody's.
var tokens = map[string]*user.DefaultInfo{
	"admin":  {Name: "admin", UID: "1", Groups: []string{"system:masters"}},
	"nobody": {Name: "nobody", UID: "2", Groups: []string{"others"}},
	"quiet":  {Name: "someone", UID: "3", Groups: []string{"quiet"}},
	"acting": {Name: "acting", UID: "4", Groups: []string{"others"}},
}

func requests(t *testing.T) []asked {
	data, err := os.ReadFile("testdata/requests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []asked
	if err := yaml.UnmarshalStrict(data, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if all[i].Method == "" {
			all[i].Method = http.MethodGet
		}
		if all[i].As == "" {
			all[i].As = "admin"
		}
	}
	return all
}

// send asks a server for everything, each request under the number it has.
func send(t *testing.T, client *http.Client, base string, all []asked) {
	for n, a := range all {
		r, err := http.NewRequestWithContext(t.Context(), a.Method, base+a.Path, strings.NewReader(a.Body))
		if err != nil {
			t.Fatal(err)
		}
		set := map[string]string{"Audit-Id": number(n), "Accept": a.Accept, "User-Agent": "test", "Authorization": "Bearer " + a.As}
		if a.As == "anonymous" {
			delete(set, "Authorization")
		}
		if a.Body != "" {
			set["Content-Type"] = "application/json"
		}
		if a.Type != "" {
			set["Content-Type"] = a.Type
		}
		for name, value := range a.Headers {
			set[name] = value
		}
		for name, value := range set {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatalf("%v: %v", a, err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatalf("%v: %v", a, err)
		}
		answer.Body.Close()
	}
}

func number(n int) string { return fmt.Sprintf("request-%d", n) }

// events reads what was written down of each request, without what differs from one run to the next.
func events(t *testing.T, log string, count int) [][]map[string]any {
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := make([][]map[string]any, count)
	lines := bufio.NewScanner(f)
	for lines.Buffer(nil, 1<<20); lines.Scan(); {
		var e map[string]any
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		var n int
		if _, err := fmt.Sscanf(fmt.Sprint(e["auditID"]), "request-%d", &n); err != nil {
			continue // of the server itself
		}
		for _, name := range []string{"requestReceivedTimestamp", "stageTimestamp", "sourceIPs"} {
			if e[name] == nil {
				t.Errorf("%s is missing in %s", name, lines.Bytes())
			}
			delete(e, name)
		}
		delete(e, "auditID")
		if notes, ok := e["annotations"].(map[string]any); ok {
			for key := range notes {
				if strings.HasPrefix(key, "apiserver.latency.k8s.io/") {
					delete(notes, key)
				}
			}
		}
		plain(e)
		all[n] = append(all[n], e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

var generated = regexp.MustCompile(`made-[a-z0-9]{5}`)

// plain replaces what is made anew by each server.
func plain(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, old := range v {
			switch key {
			case "uid", "resourceVersion", "creationTimestamp", "time", "deletionTimestamp":
				if s, ok := old.(string); ok && len(s) > 2 {
					v[key] = "…"
				}
			default:
				v[key] = plain(old)
			}
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case string:
		return generated.ReplaceAllString(v, "made-…")
	}
	return value
}

// TestEvents asks Skiff what kube-apiserver was asked, and compares what is written down. make oracle records that anew.
func TestEvents(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	users := map[string]user.Info{}
	for token, u := range tokens {
		users[token] = u
	}
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = users
		o.Audit = audit.Config{PolicyFile: "testdata/policy.yaml", File: audit.File{Path: log, MaxSize: 100, Delivery: audit.Delivery{Mode: audit.Blocking}}}
	})
	server := httptest.NewUnstartedServer(s.Handler())
	server.EnableHTTP2 = true
	server.StartTLS()
	all := requests(t)
	send(t, server.Client(), server.URL, all)
	server.Close() // and with it the requests

	data, err := os.ReadFile("testdata/events.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []recorded
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(all) {
		t.Fatalf("%d requests are recorded, there are %d: run make oracle", len(want), len(all))
	}
	for n, got := range events(t, log, len(all)) {
		if want[n].Request != all[n].String() {
			t.Fatalf("request %d is %s, recorded was %s: run make oracle", n, all[n], want[n].Request)
		}
		if diff := cmp.Diff(want[n].Events, got); diff != "" {
			t.Errorf("%s (-kube-apiserver +Skiff):\n%s", all[n], diff)
		}
	}
}

// recorded is what kube-apiserver writes down of a request.
type recorded struct {
	Request string
	Events  []map[string]any
}

// TestOwnRequests: what parts in the process of the server ask is written down too, by the same policy.
func TestOwnRequests(t *testing.T) {
	log := filepath.Join(t.TempDir(), "audit.log")
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Audit = audit.Config{PolicyFile: "testdata/policy.yaml", File: audit.File{Path: log, Delivery: audit.Delivery{Mode: audit.BlockingStrict}}}
	})
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "part"))
	if _, err := client.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	data, err := os.ReadFile(log)
	if err != nil || !bytes.Contains(data, []byte(`"requestURI":"/api/v1/namespaces/default/secrets","verb":"list","user":{"username":"part"`)) {
		t.Errorf("%v: %s", err, data)
	}
}
