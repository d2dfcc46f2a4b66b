package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/skiff-k8s/skiff/bench/wire"
)

// traffic is the load of the comparison of engines on one server: ConfigMaps of 1 KiB, which go to the namespaces
// in turn, so that each watcher of a namespace sees its share of them and each change goes to one watcher.
type traffic struct {
	scale             engineScale
	writing, watching []*wire.Conn
	body              template
	objects           atomic.Int64 // that were begun
	contents          atomic.Int64 // that were written: each is another one
}

// writes is how writes went. Times are of those that succeeded.
type writes struct {
	outcome
	answers []answer
	objects []int64 // that were written
	failed  int     // got another answer than success, or none
	why     error   // the first of them failed
}

// answer is when a writer knew of a revision.
type answer struct {
	revision int64
	at       time.Time
}

// kind is a way to write. Next tells the next object of a client.
type kind struct {
	method  string
	success int
	next    func(client, turn int) int64
}

// afterFailure is how long a client waits that was refused.
const afterFailure = 100 * time.Millisecond

// create lets so many clients create objects.
func (t *traffic) create(ctx context.Context, clients int) (writes, error) {
	return t.write(ctx, clients, kind{http.MethodPost, http.StatusCreated, func(int, int) int64 { return t.objects.Add(1) }})
}

// update lets them update what they created, whatever it is by now. Nobody updates an object of another client, unless
// there are fewer objects than clients.
func (t *traffic) update(ctx context.Context, clients int, created writes) (writes, error) {
	n := len(created.objects)
	if n == 0 {
		return writes{}, fmt.Errorf("nothing was created: %w", created.why)
	}
	return t.write(ctx, clients, kind{http.MethodPut, http.StatusOK, func(client, turn int) int64 {
		own := max(1, n/clients)
		return created.objects[(client+turn%own*clients)%n]
	}})
}

// write lets so many clients write until the time for it is over.
func (t *traffic) write(ctx context.Context, clients int, k kind) (writes, error) {
	patient, cancel := context.WithTimeoutCause(ctx, t.scale.writing+t.scale.patience, fmt.Errorf("no answer in %v", t.scale.patience))
	defer cancel()
	each := make([]writes, clients)
	began := time.Now()
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() { each[c] = t.writeAlone(patient, c, k, began) })
	}
	wg.Wait()
	return joined(began, each), ctx.Err()
}

func (t *traffic) writeAlone(ctx context.Context, client int, k kind, began time.Time) (w writes) {
	caller, body := t.writing[client%len(t.writing)].NewCaller(), t.body.clone()
	for turn := 0; time.Since(began) < t.scale.writing; turn++ {
		object := k.next(client, turn)
		body.fill(t.space(object), object, t.contents.Add(1))
		start := time.Now()
		status, reply, err := caller.Do(ctx, k.method, t.path(k.method, object), body.bytes)
		end := time.Now()
		revision, err := revisionOf(k, status, reply, err)
		if err == nil {
			w.took, w.answers, w.objects = append(w.took, end.Sub(start)), append(w.answers, answer{revision, end}), append(w.objects, object)
			continue
		}
		if w.failed++; w.why == nil {
			w.why = errors.Join(err, context.Cause(ctx))
		}
		if pause(ctx, afterFailure) != nil {
			return w
		}
	}
	return w
}

// revisionOf is that of a write that succeeded.
func revisionOf(k kind, status int, reply []byte, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	if status != k.success {
		return 0, &wire.StatusError{Status: status, Body: string(reply[:min(len(reply), 300)])}
	}
	return wire.Revision(reply)
}

// joined is the writes of all clients. They lasted until the last answer.
func joined(began time.Time, each []writes) (all writes) {
	last := began
	for _, w := range each {
		all.took = append(all.took, w.took...)
		all.answers = append(all.answers, w.answers...)
		all.objects = append(all.objects, w.objects...)
		if all.failed += w.failed; all.why == nil {
			all.why = w.why
		}
		if n := len(w.answers); n > 0 && w.answers[n-1].at.After(last) {
			last = w.answers[n-1].at
		}
	}
	all.elapsed = last.Sub(began)
	slices.Sort(all.took)
	return all
}

// space is the number of an object's namespace.
func (t *traffic) space(object int64) int64 { return object % int64(t.scale.watchers) }

func (t *traffic) path(method string, object int64) string {
	path := make([]byte, 0, 80)
	path = append(path, "/api/v1/namespaces/"...)
	path = appendPadded(append(path, spacePrefix...), t.space(object), spaceDigits)
	path = append(path, "/configmaps"...)
	if method == http.MethodPut {
		path = appendPadded(append(append(path, '/'), objectPrefix...), object, objectDigits)
	}
	return string(path)
}

// Names have the same length, so that they are written over one another in what is encoded.
const (
	spacePrefix, spaceDigits     = "bench-", 4
	objectPrefix, objectDigits   = "map-", 10
	contentPrefix, contentDigits = "content-", 12
)

// template is an encoded ConfigMap, and where it has what changes.
type template struct {
	bytes                  []byte
	space, object, content int // of their digits
}

func newTemplate() (template, error) {
	encoded, err := encode(&v1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: string(appendPadded([]byte(spacePrefix), 0, spaceDigits)), Name: string(appendPadded([]byte(objectPrefix), 0, objectDigits)),
			Labels: map[string]string{"app": "bench"},
		},
		Data: map[string]string{"payload": string(appendPadded([]byte(contentPrefix), 0, contentDigits)) + payload()},
	})
	t := template{bytes: encoded}
	for prefix, at := range map[string]*int{spacePrefix + "0": &t.space, objectPrefix + "0": &t.object, contentPrefix + "0": &t.content} {
		*at = bytes.Index(encoded, []byte(prefix)) + len(prefix) - 1
	}
	return t, err
}

func (t template) clone() template {
	t.bytes = slices.Clone(t.bytes)
	return t
}

func (t template) fill(space, object, content int64) {
	appendPadded(t.bytes[:t.space], space, spaceDigits)
	appendPadded(t.bytes[:t.object], object, objectDigits)
	appendPadded(t.bytes[:t.content], content, contentDigits)
}

// appendPadded appends n in so many digits.
func appendPadded(b []byte, n int64, digits int) []byte {
	var text [20]byte
	decimal := strconv.AppendInt(text[:0], n, 10)
	for range digits - len(decimal) {
		b = append(b, '0')
	}
	return append(b, decimal...)
}

func encode(object runtime.Object) ([]byte, error) {
	var b bytes.Buffer
	err := protobuf.NewSerializer(nil, nil).Encode(object, &b)
	return b.Bytes(), err
}

// makeNamespaces makes one for each watcher. What fails is tried again, for it is not what is measured.
func (t *traffic) makeNamespaces(ctx context.Context) error {
	const makers, attempts = 16, 5
	callers := make([]*wire.Caller, makers)
	for i := range callers {
		callers[i] = t.writing[i%len(t.writing)].NewCaller()
	}
	_, err := work(ctx, makers, t.scale.watchers, atMostContender, func(ctx context.Context, maker, n int) error {
		name := string(appendPadded([]byte(spacePrefix), int64(n), spaceDigits))
		body, err := encode(&v1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: name}})
		for range attempts {
			if err != nil {
				return err
			}
			var status int
			var reply []byte
			status, reply, err = callers[maker].Do(ctx, http.MethodPost, "/api/v1/namespaces", body)
			if err != nil || status == http.StatusCreated || status == http.StatusConflict {
				return err
			}
			if err = pause(ctx, afterFailure); err != nil {
				return fmt.Errorf("namespace %s: status %d: %.300q", name, status, reply)
			}
		}
		return fmt.Errorf("namespace %s is refused", name)
	})
	return err
}
