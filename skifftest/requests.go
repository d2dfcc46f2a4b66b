package skifftest

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/request"
)

// Request is one that a client of Config or User has made.
type Request struct {
	At   time.Time
	User string
	// Verb is get, list, watch, create, update, patch, delete or deletecollection, and the method in lower case where Path
	// names no resource.
	Verb, Path                     string
	Group, Version                 string
	Resource, Subresource          string
	Namespace, Name                string
	ResourceVersion, ContinueToken string // what a list or a watch was to begin with
	// Code is the status of the answer; 0: there is none yet, or there never was, because the connection was lost.
	Code int
	// Sent is how long the body was, Received how much of that of the answer has been read.
	Sent, Received int64
	// Fault is what has struck the request.
	Fault Fault
}

// Requests are what clients have asked so far, in the order in which it came. Those of Client are not among them: it is the
// test's own.
func (c *Cluster) Requests() []Request { return c.asked.all() }

// journal has the requests to a cluster.
type journal struct {
	mu      sync.Mutex
	entries []*entry
}

// entry is a request that may still be going on.
type entry struct {
	Request        // but for Code and Received
	code, received atomic.Int64
}

// begin writes a request down, with the fault that f chooses for it.
func (j *journal) begin(r *http.Request, user string, f func(Request) Fault) *entry {
	e := &entry{Request: describe(r, user)}
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Fault = f(e.Request)
	j.entries = append(j.entries, e)
	return e
}

// describe is what a request asks for.
func describe(r *http.Request, user string) Request {
	info, _ := request.Parse(r) // what the server does not understand it answers itself
	d := Request{
		At: time.Now(), User: user, Verb: info.Verb, Path: info.Path, Group: info.Group, Version: info.Version, Resource: info.Resource,
		Subresource: info.Subresource, Namespace: info.Namespace, Name: info.Name, Sent: max(r.ContentLength, 0),
	}
	if query := r.URL.Query(); d.Verb == "list" || d.Verb == "watch" {
		d.ResourceVersion, d.ContinueToken = query.Get("resourceVersion"), query.Get("continue")
	}
	return d
}

// answered notes an answer, and counts what is read of it.
func (e *entry) answered(r *http.Response) {
	e.code.Store(int64(r.StatusCode))
	if r.StatusCode != http.StatusSwitchingProtocols { // else the body is a connection
		r.Body = &counted{r.Body, &e.received}
	}
}

func (j *journal) all() []Request {
	j.mu.Lock()
	entries := slices.Clone(j.entries)
	j.mu.Unlock()
	requests := make([]Request, len(entries))
	for i, e := range entries {
		requests[i] = e.Request
		requests[i].Code, requests[i].Received = int(e.code.Load()), e.received.Load()
	}
	return requests
}

// counted is a body of which is known how much has been read.
type counted struct {
	io.ReadCloser
	count *atomic.Int64
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.count.Add(int64(n))
	return n, err
}
