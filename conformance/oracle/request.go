package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// testCase is a list of requests, sent in order to each server.
type testCase struct {
	Name     string    `json:"name"`
	Requests []request `json:"requests"`
}

// request is one step. In its path and texts, $RV and $UID stand for those of
// the last object that was answered, $LIST and $CONTINUE for the
// resourceVersion and the token of the last list.
type request struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	// Accept and Type are headers; empty means JSON.
	Accept string `json:"accept,omitempty"`
	Type   string `json:"type,omitempty"`
	// Body is sent as it is.
	Body string `json:"body,omitempty"`
	// Merge is put into the last object answered, by the rules of JSON merge
	// patch, and the result is sent.
	Merge map[string]any `json:"merge"`
	// Code is what kube-apiserver must answer; 0 accepts all, 1 all below 400.
	Code int `json:"code,omitempty"`
	// Until repeats the request, while other codes are answered, for as long as
	// a server may need to act on what it was told before.
	Until int `json:"until,omitempty"`
	// Settled repeats it likewise until the object has this condition with this
	// status ("Ready=True"): what the server itself has to write to it is written.
	Settled string `json:"settled,omitempty"`
	// Anonymous leaves out the client certificate.
	Anonymous bool `json:"anonymous,omitempty"`
	// As is a user to impersonate, of Groups.
	As     string   `json:"as,omitempty"`
	Groups []string `json:"groups,omitempty"`
	// Quiet requests set something up or clear it away: answers do not matter.
	Quiet bool `json:"quiet,omitempty"`
}

func (r request) String() string { return r.Method + " " + r.Path }

// answer is what a server said, without what differs from run to run.
type answer struct {
	Code   int               `json:"code"`
	Header map[string]string `json:"header,omitempty"`
	Body   any               `json:"body,omitempty"`
}

// session plays one case on one server.
type session struct {
	server *server
	vars   map[string]string
	object map[string]any // the last one answered
	told   strings.Builder
	seen   seen
}

// play sends the requests of t and returns the answer to each.
func play(ctx context.Context, s *server, t testCase) ([]answer, error) {
	p := &session{server: s, vars: map[string]string{"RV": "0", "UID": "", "LIST": "", "CONTINUE": ""}, seen: seen{objects: make(map[string]identity)}}
	var answers []answer
	for _, r := range t.Requests {
		a, err := p.step(ctx, r)
		if err != nil {
			return answers, fmt.Errorf("%s: %s %.300s: %w", s.name, r, r.Body, err)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

func (p *session) step(ctx context.Context, r request) (answer, error) {
	r.Path = p.fill(r.Path)
	r.Body = p.fill(r.Body)
	if r.Merge != nil {
		var change map[string]any
		if err := json.Unmarshal([]byte(p.fill(text(r.Merge))), &change); err != nil {
			return answer{}, err
		}
		p.told.WriteString(text(change))
		r.Body = text(merged(p.object, change))
	} else {
		p.told.WriteString(r.Body)
	}
	p.told.WriteString(r.Path)
	a, err := p.server.sendUntil(ctx, r)
	if err != nil {
		return a, err
	}
	p.remember(a.Body)
	p.seen.cached = strings.Contains(r.Path, "resourceVersion=") && !strings.Contains(r.Path, "=Exact") && !strings.Contains(r.Path, "watch=")
	a.Body = plain(clone(a.Body), p.told.String(), &p.seen)
	if strings.Contains(r.Path, "watch=1") && a.Code == http.StatusOK {
		a.Body = withoutProgress(a.Body)
	}
	return a, nil
}

func (p *session) fill(s string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	for _, name := range slices.Sorted(maps.Keys(p.vars)) {
		s = strings.ReplaceAll(s, "$"+name, p.vars[name])
	}
	return s
}

// remember keeps what later requests may refer to.
func (p *session) remember(body any) {
	object, _ := body.(map[string]any)
	meta, _ := object["metadata"].(map[string]any)
	if meta == nil || object["kind"] == "Status" {
		return
	}
	rv, _ := meta["resourceVersion"].(string)
	if strings.HasSuffix(fmt.Sprint(object["kind"]), "List") || object["kind"] == "Table" {
		if _, isList := object["items"]; isList {
			p.vars["LIST"] = rv
		}
		p.vars["CONTINUE"], _ = meta["continue"].(string)
		return
	}
	if uid, ok := meta["uid"].(string); ok && !slices.Contains([]any{"PartialObjectMetadata", "Scale"}, object["kind"]) {
		p.vars["RV"], p.vars["UID"] = rv, uid
		p.object = object
	}
}

// readHeaders are the headers clients look at. Of those below, only whether
// they are there is compared.
var (
	readHeaders    = []string{"Content-Type", "Warning", "Retry-After", "Location", "Cache-Control", "Allow", "Vary"}
	presentHeaders = []string{"Audit-Id", "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid", "Etag"}
)

// patience is how long a server may need to act on what it was told.
const patience = 20 * time.Second

// sendUntil sends a request again until it is answered as it should be. The
// last answer counts.
func (s *server) sendUntil(ctx context.Context, r request) (answer, error) {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		a, err := s.send(ctx, r)
		if err != nil || r.answeredBy(a) || time.Now().After(end) || ctx.Err() != nil {
			return a, err
		}
	}
}

// answeredBy reports whether an answer is the one that the request waits for.
func (r request) answeredBy(a answer) bool {
	return (r.Until == 0 || a.Code == r.Until) && (r.Settled == "" || slices.Contains(conditions(a.Body), r.Settled))
}

// conditions are those of an object, each with its status.
func conditions(body any) []string {
	object, _ := body.(map[string]any)
	status, _ := object["status"].(map[string]any)
	list, _ := status["conditions"].([]any)
	var all []string
	for _, c := range list {
		if c, ok := c.(map[string]any); ok {
			all = append(all, asText(c["type"])+"="+asText(c["status"]))
		}
	}
	return all
}

// send makes one request; the body of the answer is decoded, if it can be.
func (s *server) send(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	var a answer
	var body io.Reader
	if r.Body != "" {
		body = strings.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, s.base+r.Path, body)
	if err != nil {
		return a, err
	}
	req.Header.Set("Accept", or(r.Accept, "application/json"))
	req.Header.Set("User-Agent", "oracle")
	if r.Body != "" || r.Type != "" {
		req.Header.Set("Content-Type", or(r.Type, "application/json"))
	}
	if r.As != "" {
		req.Header.Set("Impersonate-User", r.As)
		req.Header["Impersonate-Group"] = r.Groups
	}
	transport := s.admin
	if r.Anonymous {
		transport = s.anonymous
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.Code = resp.StatusCode
	a.Header = make(map[string]string)
	for _, name := range readHeaders {
		if values := resp.Header.Values(name); len(values) > 0 {
			slices.Sort(values)
			a.Header[name] = strings.Join(values, " | ")
		}
	}
	for _, name := range presentHeaders {
		if resp.Header.Get(name) != "" {
			a.Header[name] = "(is there)"
		}
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, fmt.Errorf("read the answer: %w", err)
	}
	a.Body = decode(resp.Header.Get("Content-Type"), data)
	return a, nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// merged is a copy of into with changes, by the rules of JSON merge patch.
func merged(into, changes map[string]any) map[string]any {
	out := maps.Clone(into)
	if out == nil {
		out = make(map[string]any)
	}
	for key, value := range changes {
		if value == nil {
			delete(out, key)
			continue
		}
		if inner, ok := value.(map[string]any); ok {
			before, _ := out[key].(map[string]any)
			out[key] = merged(before, inner)
			continue
		}
		out[key] = value
	}
	return out
}

// text is the JSON of a value that came from JSON or YAML.
func text(value any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		panic(err) // such values always have JSON
	}
	return strings.TrimSuffix(b.String(), "\n")
}
