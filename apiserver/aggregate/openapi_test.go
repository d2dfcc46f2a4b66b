package aggregate_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

const (
	indexOfMirror = `{"paths":{"apis/mirror.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/mirror.example.com/v1?hash=AB"},` +
		`"apis/apps/v1":{"serverRelativeURL":"/openapi/v3/apis/apps/v1?hash=EVIL"},"version":{"serverRelativeURL":"https://evil.example.com"}}}`
	// It describes paths that are not its own, and its Status is another than ours.
	swaggerOfMirror = `{"swagger":"2.0","info":{"title":"Mirror","version":"1"},"paths":{` +
		`"/apis/mirror.example.com/v1/mirrors":{"get":{"operationId":"listMirrors","responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/Mirror"}}}}},` +
		`"/apis/apps/v1/evil":{"get":{"operationId":"evil","responses":{"200":{"description":"OK"}}}}},` +
		`"definitions":{"Mirror":{"type":"object","properties":{"status":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status"}}},` +
		`"io.k8s.apimachinery.pkg.apis.meta.v1.Status":{"type":"string"}}}`
)

// describes lets e answer for the paths of OpenAPI.
func (e *extension) describes(v2, v3 http.HandlerFunc) {
	e.say(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/openapi/v2":
			v2(w, r)
		case strings.HasPrefix(r.URL.Path, "/openapi/v3"):
			v3(w, r)
		case r.URL.Path == "/apis":
			http.NotFound(w, r)
		default:
			e.describeMirrors(w, r)
		}
	})
}

func text(s string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) }
}

func (c *cluster) document(t *testing.T, path string) map[string]any {
	t.Helper()
	code, body := c.do(t, http.MethodGet, path, "", nil)
	var doc map[string]any
	if err := json.Unmarshal([]byte(body), &doc); err != nil || code != http.StatusOK {
		t.Fatalf("%s: %d %.200s: %v", path, code, body, err)
	}
	return doc
}

// TestOpenAPI: what an extension server describes is described here, as far as
// it is its own.
func TestOpenAPI(t *testing.T) {
	c := start(t)
	before := c.document(t, "/openapi/v3")["paths"].(map[string]any)
	e := c.extend(t, nil)
	e.describes(text(swaggerOfMirror), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/openapi/v3" {
			io.WriteString(w, indexOfMirror)
			return
		}
		io.WriteString(w, r.Header.Get("X-Remote-User")+" asks for "+r.URL.RequestURI())
	})
	c.retry(t)
	c.seen(t, "/openapi/v3", nil, func(_ int, body string) bool { return strings.Contains(body, "mirror") })
	after := c.document(t, "/openapi/v3")["paths"].(map[string]any)
	for path, was := range before {
		if is := after[path]; is == nil || is.(map[string]any)["serverRelativeURL"] != was.(map[string]any)["serverRelativeURL"] {
			t.Errorf("%s was %v, is %v", path, was, is)
		}
	}
	url := after["apis/mirror.example.com/v1"].(map[string]any)["serverRelativeURL"].(string)
	if _, body := c.do(t, http.MethodGet, url, "", nil); len(after) != len(before)+1 || body != "admin asks for /openapi/v3/apis/mirror.example.com/v1?hash=AB" {
		t.Errorf("%d documents after %d; %s: got %q", len(after), len(before), url, body)
	}

	c.seen(t, "/openapi/v2", nil, func(_ int, body string) bool { return strings.Contains(body, "listMirrors") })
	doc := c.document(t, "/openapi/v2")
	definitions := doc["definitions"].(map[string]any)
	if status := definitions["io.k8s.apimachinery.pkg.apis.meta.v1.Status"].(map[string]any); status["type"] != "object" {
		t.Errorf("our own Status is %v", status)
	}
	own, err := json.Marshal(definitions["Mirror"])
	if want := `{"properties":{"status":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Status_v2"}},"type":"object"}`; err != nil || string(own) != want {
		t.Errorf("got %s, want %s", own, want)
	}
	if paths := doc["paths"].(map[string]any); paths["/apis/apps/v1/evil"] != nil || paths["/apis/apps/v1/"] == nil {
		t.Error("an extension server describes paths of others")
	}
}

// retry has the server asked anew what it serves.
func (c *cluster) retry(t *testing.T) {
	t.Helper()
	c.change(t, `{"spec":{"insecureSkipTLSVerify":true,"caBundle":null}}`)
}

// TestOpenAPIOfOldServers: those that have no description in version 3 are
// described by that in version 2.
func TestOpenAPIOfOldServers(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	e.describes(text(swaggerOfMirror), http.NotFound)
	c.retry(t)
	c.seen(t, "/openapi/v3", nil, func(_ int, body string) bool { return strings.Contains(body, "mirror") })
	doc := c.document(t, "/openapi/v3/apis/mirror.example.com/v1")
	if paths := doc["paths"].(map[string]any); len(paths) != 1 || paths["/apis/mirror.example.com/v1/mirrors"] == nil {
		t.Errorf("got %v", paths)
	}
}

// TestOpenAPIOfBrokenServers: documents of others stay as they are.
func TestOpenAPIOfBrokenServers(t *testing.T) {
	for name, say := range map[string][2]http.HandlerFunc{
		"garbage":             {text("{"), text("[]")},
		"no paths":            {text(`{"swagger":"2.0"}`), http.NotFound},
		"circles":             {text(`{"paths":{"/apis/mirror.example.com/v1/x":{"$ref":"#/definitions/A"}},"definitions":{"A":{"$ref":"#/definitions/A"}}}`), http.NotFound},
		"types that are none": {text(`{"paths":{"/apis/mirror.example.com/v1/x":7},"definitions":[],"parameters":"x"}`), http.NotFound},
		"empty parameters":    {text(`{"paths":{"/apis/mirror.example.com/v1/x":{"parameters":[{}],"get":{"parameters":[{"in":"body"}]}}}}`), http.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			asked := make(chan bool, 64)
			e := c.extend(t, nil)
			e.describes(func(w http.ResponseWriter, r *http.Request) {
				say[0](w, r)
				asked <- true
			}, say[1])
			c.retry(t)
			<-asked
			for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"} {
				c.seen(t, path, nil, func(code int, body string) bool { return code == http.StatusOK && strings.Contains(body, "apps/v1") })
			}
		})
	}
}
