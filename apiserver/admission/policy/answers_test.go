package policy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// The answers in testdata are those of kube-apiserver. To ask it again:
//
//	go test ./apiserver/admission/policy -run Answers -record KUBECONFIG
var record = flag.String("record", "", "kubeconfig of a kube-apiserver whose answers are to be recorded")

// A scenario is objects that are there, policies among them, and requests.
type scenario struct {
	Name string
	// Given are created in order and removed in the opposite one.
	Given []map[string]any
	Ask   []ask
}

type ask struct {
	Do   string // method and path
	As   string // the user; empty: one of system:masters
	Send map[string]any
}

type answer struct {
	Code     int      `json:"code"`
	Warnings []string `json:"warnings,omitempty"`
	Body     any      `json:"body"`
}

func TestAnswers(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			c := newClient(t)
			var scenarios []scenario
			read(t, file, func(b []byte) error { return yaml.UnmarshalStrict(b, &scenarios) })
			recorded, want := strings.TrimSuffix(file, ".yaml")+".json", make(map[string][]answer)
			if *record == "" {
				read(t, recorded, func(b []byte) error { return json.Unmarshal(b, &want) })
			}
			for _, s := range scenarios {
				if *record != "" {
					defer c.take(t, s.Given)
				}
				c.give(t, s.Given)
			}
			if *record != "" {
				time.Sleep(5 * time.Second) // kube-apiserver looks at policies once a second
			}
			for _, s := range scenarios {
				t.Run(s.Name, func(t *testing.T) {
					var got []answer
					for _, a := range s.Ask {
						got = append(got, c.ask(t, a))
					}
					if *record != "" {
						want[s.Name] = got
						return
					}
					if diff := cmp.Diff(want[s.Name], got); diff != "" {
						t.Errorf("answers differ (-kube-apiserver +skiff):\n%s", diff)
					}
				})
			}
			if *record != "" {
				write(t, recorded, want)
			}
		})
	}
}

func read(t *testing.T, file string, decode func([]byte) error) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = decode(text)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func write(t *testing.T, file string, value any) {
	t.Helper()
	text, err := json.MarshalIndent(value, "", " ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// client asks one server, ours or the one that is recorded.
type client struct {
	http  http.Client
	base  string
	kinds map[string]string // apiVersion/kind → path of its collection, with a place for the namespace
}

func newClient(t *testing.T) *client {
	t.Helper()
	ours := apiservertest.Start(t, nil)
	c := &client{base: "http://server", kinds: map[string]string{"example.com/v1/Rule": "/apis/example.com/v1%s/rules", "example.com/v1/Sized": "/apis/example.com/v1%s/sized"}}
	c.http.Transport = ours.Transport(&user.DefaultInfo{Name: "admin", UID: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	if *record != "" {
		config, err := clientcmd.BuildConfigFromFlags("", *record)
		if err == nil {
			c.base = config.Host
			c.http.Transport, err = rest.TransportFor(config)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range ours.Resources() {
		path := "/apis/" + r.Group + "/" + r.Version
		if r.Group == "" {
			path = "/api/" + r.Version
		}
		c.kinds[r.GroupVersion().String()+"/"+r.Kind] = path + "%s/" + r.Plural
	}
	return c
}

// path is that of the collection of an object, and its name.
func (c *client) path(t *testing.T, obj map[string]any) (collection, name string) {
	t.Helper()
	form, ok := c.kinds[fmt.Sprint(obj["apiVersion"], "/", obj["kind"])]
	if !ok {
		t.Fatalf("no kind %v %v", obj["apiVersion"], obj["kind"])
	}
	meta := obj["metadata"].(map[string]any)
	namespace, _ := meta["namespace"].(string)
	if namespace != "" {
		namespace = "/namespaces/" + namespace
	}
	return fmt.Sprintf(form, namespace), meta["name"].(string)
}

func (c *client) give(t *testing.T, objects []map[string]any) {
	t.Helper()
	for _, obj := range objects {
		collection, name := c.path(t, obj)
		a := c.ask(t, ask{Do: "POST " + collection, Send: obj})
		for wait := 0; a.Code == http.StatusNotFound && wait < 100; wait++ { // a custom resource that is not yet served
			time.Sleep(50 * time.Millisecond)
			a = c.ask(t, ask{Do: "POST " + collection, Send: obj})
		}
		if a.Code != http.StatusCreated {
			t.Fatalf("create %s %s: %d %v", collection, name, a.Code, a.Body)
		}
	}
}

func (c *client) take(t *testing.T, objects []map[string]any) {
	t.Helper()
	for _, obj := range slices.Backward(objects) {
		collection, name := c.path(t, obj)
		c.ask(t, ask{Do: "DELETE " + collection + "/" + name})
	}
}

func (c *client) ask(t *testing.T, a ask) answer {
	t.Helper()
	method, path, _ := strings.Cut(a.Do, " ")
	var send io.Reader
	contentType := "application/json"
	if a.Send != nil {
		text, err := json.Marshal(a.Send)
		if err != nil {
			t.Fatal(err)
		}
		send = bytes.NewReader(text)
	}
	if method == http.MethodPatch {
		contentType = "application/merge-patch+json"
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, send)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if a.As != "" {
		req.Header.Set("Impersonate-User", a.As)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", a.Do, err)
	}
	defer resp.Body.Close()
	var body any
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatalf("%s: %v", a.Do, err)
	}
	return answer{resp.StatusCode, resp.Header.Values("Warning"), plain(body)}
}

var moment = regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]+Z$`)

// plain leaves out what a server makes up.
func plain(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for _, key := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
			delete(v, key)
		}
		for key, inner := range v {
			v[key] = plain(inner)
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case string:
		if moment.MatchString(v) {
			return "<time>"
		}
	}
	return value
}
