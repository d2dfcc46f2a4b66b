package webhook_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// With -upstream, TestScripts asks a Kubernetes server that has nothing in it yet instead of Skiff, and writes the scripts anew
// with what it answered.
var upstream = flag.String("upstream", "", "kubeconfig of a Kubernetes API server to record testdata from")

// TestScripts plays the scripts of testdata. They hold requests, what webhooks are configured and what they say, and
// what kube-apiserver 1.36.3 answered and asked its webhooks. A line begins with
//
//	=  the webhooks from here on: "mutating" or "validating", and a JSON list of what each has besides its name
//	>  a request: its method and path, its content type if it is not JSON; a body follows in lines of its own
//	!  what a webhook says to that request: its name and a response (the patch in clear), or "raw", a status and a body,
//	   or "hang", or "slow"
//	?  recorded: a webhook that was asked, and the review it got
//	<  recorded: the answer, its code, its warnings and its body
//
// A webhook that the step says nothing of allows what it is asked about.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			steps := readScript(t, file)
			p := newPlayer(t)
			for i := range steps {
				p.play(t, &steps[i])
			}
			if *upstream != "" {
				writeScript(t, file, steps)
			}
		})
	}
}

// step is one request with what belongs to it, or a comment or setting that stands alone.
type step struct {
	plain    []string // lines before the request that are kept as they are
	settings [][2]string
	request  string
	body     string
	said     []string // "name response"
	want     []string
	got      []string
}

func readScript(t *testing.T, file string) (steps []step) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s step
	end := func() {
		if s.request != "" {
			steps = append(steps, s)
			s = step{}
		}
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		sign, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "" || sign == "#":
			end()
			s.plain = append(s.plain, line)
		case sign == "=":
			end()
			kind, list, _ := strings.Cut(rest, " ")
			s.plain, s.settings = append(s.plain, line), append(s.settings, [2]string{kind, list})
		case sign == ">":
			end()
			s.request = rest
		case sign == "!":
			s.said = append(s.said, rest)
		case sign == "?" || sign == "<":
			s.want = append(s.want, line)
		default:
			s.body += line + "\n"
		}
	}
	end()
	return steps
}

func writeScript(t *testing.T, file string, steps []step) {
	var b strings.Builder
	for _, s := range steps {
		for _, line := range s.plain {
			b.WriteString(line + "\n")
		}
		b.WriteString("> " + s.request + "\n" + s.body)
		for _, said := range s.said {
			b.WriteString("! " + said + "\n")
		}
		for _, line := range s.got {
			b.WriteString(line + "\n")
		}
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// player sends the requests of a script and is its webhooks.
type player struct {
	base      string
	transport http.RoundTripper
	hooks     *httptest.Server

	mu    sync.Mutex
	step  *step
	asked []string
}

func newPlayer(t *testing.T) *player {
	config := &rest.Config{}
	if *upstream != "" {
		var err error
		if config, err = clientcmd.BuildConfigFromFlags("", *upstream); err != nil {
			t.Fatal(err)
		}
	} else {
		config = apiservertest.Config(apiservertest.Start(t, func(o *apiserver.Options) { o.Dial = (&net.Dialer{}).DialContext }), "admin")
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &player{base: config.Host, transport: transport}
	p.hooks = httptest.NewTLSServer(p)
	p.configure(t, "mutating", "[]") // of a script before
	p.configure(t, "validating", "[]")
	t.Cleanup(func() {
		p.hooks.CloseClientConnections()
		p.hooks.Close()
	})
	return p
}

func (p *player) play(t *testing.T, s *step) {
	for _, setting := range s.settings {
		p.configure(t, setting[0], setting[1])
	}
	p.mu.Lock()
	p.step, p.asked = s, nil
	p.mu.Unlock()
	answer := p.send(t, s.request, s.body)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step = nil
	if slices.ContainsFunc(p.asked, func(line string) bool { return strings.HasPrefix(line, "? v") }) {
		slices.SortStableFunc(p.asked, order)
	}
	s.got = append(p.asked, answer)
	if strings.HasPrefix(s.request, "POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions") && strings.HasPrefix(answer, "< 201") {
		p.untilServed(t, s.body)
	}
	if *upstream != "" {
		return
	}
	if diff := cmp.Diff(decoded(s.want), decoded(s.got)); diff != "" {
		t.Errorf("%s %s\n(- kube-apiserver, + got):\n%s", s.request, s.body, diff)
	}
}

// decoded are recorded lines in a form whose differences can be read.
func decoded(lines []string) (list []any) {
	for _, line := range lines {
		var v any
		head, text, _ := strings.Cut(line, " {")
		if err := json.Unmarshal([]byte("{"+text), &v); err != nil {
			list = append(list, line)
			continue
		}
		list = append(list, head, v)
	}
	return list
}

// order puts validating webhooks, which are asked all at once, behind mutating ones, and in the order of their names.
func order(a, b string) int {
	rank := func(line string) string {
		if name := strings.Fields(line)[1]; name[0] == 'v' {
			return name
		}
		return ""
	}
	return strings.Compare(rank(a), rank(b))
}

// send makes a request and returns the line that records the answer.
func (p *player) send(t *testing.T, request, body string) string {
	words := strings.Fields(request)
	r, err := http.NewRequestWithContext(t.Context(), words[0], p.base+words[1], strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if len(words) > 2 {
		r.Header.Set("Content-Type", words[2])
	}
	r.Header.Set("User-Agent", "script")
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		return "< broken " + p.normal(err.Error())
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	line := fmt.Sprintf("< %d", resp.StatusCode)
	for _, warning := range resp.Header.Values("Warning") {
		line += " " + p.normal(warning)
	}
	return line + " " + p.canonical(t, data)
}

// untilServed waits until the server serves all that a definition defines, which it does a moment after it has it.
func (p *player) untilServed(t *testing.T, definition string) {
	var d struct {
		Spec struct {
			Group    string
			Names    struct{ Plural string }
			Versions []struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(definition), &d); err != nil {
		t.Fatal(err)
	}
	for _, v := range d.Spec.Versions {
		for strings.HasPrefix(p.send(t, "GET /apis/"+d.Spec.Group+"/"+v.Name+"/"+d.Spec.Names.Plural, ""), "< 404") {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// configure sets the webhooks of a kind.
func (p *player) configure(t *testing.T, kind, list string) {
	var hooks []map[string]any
	if err := json.Unmarshal([]byte(list), &hooks); err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	for i, h := range hooks {
		name := h["name"].(string)
		full := map[string]any{
			"admissionReviewVersions": []string{"v1"}, "sideEffects": "None",
			"rules": []any{map[string]any{"apiGroups": []string{"*"}, "apiVersions": []string{"*"}, "resources": []string{"*/*"}, "operations": []string{"*"}}},
			"clientConfig": map[string]any{"url": p.hooks.URL + "/" + name,
				"caBundle": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.hooks.Certificate().Raw})},
			// The server's own writes come when they like.
			"matchConditions": []any{map[string]any{"name": "own", "expression": "request.userInfo.username == 'admin'"}},
		}
		for key, value := range h {
			full[key] = value
		}
		full["name"] = name + ".example.com"
		hooks[i] = full
	}
	kinds := map[string]string{"mutating": "MutatingWebhookConfiguration", "validating": "ValidatingWebhookConfiguration"}
	body, err := json.Marshal(map[string]any{"apiVersion": "admissionregistration.k8s.io/v1", "kind": kinds[kind],
		"metadata": map[string]any{"name": kind}, "webhooks": hooks})
	if err != nil {
		t.Fatal(err)
	}
	path := "/apis/admissionregistration.k8s.io/v1/" + strings.ToLower(kinds[kind]) + "s"
	if answer := p.send(t, "DELETE "+path+"/"+kind, ""); !strings.HasPrefix(answer, "< 200") && !strings.HasPrefix(answer, "< 404") {
		t.Fatalf("delete the webhooks: %s", answer)
	}
	if answer := p.send(t, "POST "+path, string(body)); !strings.HasPrefix(answer, "< 201") {
		t.Fatalf("configure %s: %s", body, answer)
	}
	if *upstream != "" {
		time.Sleep(1500 * time.Millisecond) // it takes note when it does
	}
}

// ServeHTTP is the webhook that the path names.
func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var review struct {
		APIVersion string
		Request    struct{ UID string }
	}
	if err := json.Unmarshal(body, &review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	said := "{}"
	p.mu.Lock()
	if p.step != nil {
		p.asked = append(p.asked, "? "+name+" "+p.canonical(nil, body))
		for _, line := range p.step.said {
			if of, response, _ := strings.Cut(line, " "); of == name {
				said = response
			}
		}
	}
	p.mu.Unlock()
	switch said {
	case "hang":
		<-r.Context().Done()
		return
	case "slow": // the answer begins, and does not end
		io.WriteString(w, `{"apiVersion":"admission.k8s.io/v1",`)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // it is not to end after all
	}
	if raw, ok := strings.CutPrefix(said, "raw "); ok {
		code, text, _ := strings.Cut(raw, " ")
		var status int
		fmt.Sscan(code, &status)
		w.Header().Set("Content-Type", "application/json")
		if status/100 == 3 {
			w.Header().Set("Location", text)
		}
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(text, "THE-UID", review.Request.UID))
		return
	}
	response := map[string]any{"uid": review.Request.UID, "allowed": true}
	if err := json.Unmarshal([]byte(said), &response); err != nil {
		panic(err)
	}
	if patch, ok := response["patch"]; ok {
		if _, text := patch.(string); !text {
			b, _ := json.Marshal(patch)
			response["patch"] = base64.StdEncoding.EncodeToString(b)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"apiVersion": review.APIVersion, "kind": "AdmissionReview", "response": response})
}

var (
	uids  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	times = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	names = regexp.MustCompile(`gen-[a-z0-9]{5}\b`)
)

func (p *player) normal(text string) string {
	text = strings.ReplaceAll(text, p.hooks.URL, "https://HOOK")
	text = strings.ReplaceAll(text, strings.TrimPrefix(p.hooks.URL, "https://"), "HOOK")
	return names.ReplaceAllString(times.ReplaceAllString(uids.ReplaceAllString(text, "UID"), "TIME"), "gen-RANDOM")
}

// canonical is JSON in one form, without what differs from run to run.
func (p *player) canonical(t *testing.T, data []byte) string {
	var v any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return p.normal(strings.TrimSpace(string(data)))
	}
	clean(v)
	out := &bytes.Buffer{}
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil && t != nil {
		t.Fatal(err)
	}
	return p.normal(strings.TrimSpace(out.String()))
}

// clean takes out what depends on the server's age, and what is tested elsewhere.
func clean(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			clean(e)
		}
	case map[string]any:
		if causes, ok := v["causes"].([]any); ok { // kube-apiserver says some twice
			v["causes"] = slices.CompactFunc(causes, func(a, b any) bool { return cmp.Equal(a, b) })
		}
		if v["code"] == json.Number("504") { // where kube-apiserver's outermost filter says so, it does not say what it says
			delete(v, "apiVersion")
			delete(v, "kind")
		}
		if v["continue"] == "" { // lists of custom resources are deleted with it, and listed without
			delete(v, "continue")
		}
		delete(v, "managedFields")
		delete(v, "extra") // of a user: the certificate it came with
		for _, key := range []string{"resourceVersion", "token"} {
			if text, ok := v[key].(string); ok && text != "" {
				v[key] = strings.ToUpper(key)
			}
		}
		for _, e := range v {
			clean(e)
		}
	}
}
