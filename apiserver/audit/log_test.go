package audit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/request"
)

// quiet is a Log of one backend, whose complaints nobody reads.
func quiet(s sink, d Delivery) *Log {
	l := &Log{policy: &policy{}, metrics: newMetrics(nil), logger: slog.New(slog.DiscardHandler)}
	l.policy.Rules = []auditv1.PolicyRule{{Level: auditv1.LevelRequestResponse}}
	l.backends = []*backend{newBackend("log", s, d, l.failed)}
	return l
}

func file(t *testing.T, name, content string) string {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const everything = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n"

// ask has a request served that sends and is answered with an object.
func ask(l *Log, sent, answered string) error {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/namespaces/n/configmaps", nil)
	r = r.WithContext(request.WithNotes(request.Begin(r.Context(), "id"), nil))
	record := l.Begin(r, authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "u"}, Verb: "create", Resource: "configmaps", Namespace: "n", ResourceRequest: true})
	if err := record.Received(); err != nil {
		return err
	}
	record.Asked(nil, func() ([]byte, error) { return []byte(sent), nil })
	record.Answered(nil, func() ([]byte, error) { return []byte(answered), nil })
	record.Started(http.StatusCreated, false)
	record.Completed(false)
	return nil
}

// kept is a sink that keeps what it gets. It blocks while a place is missing in gate.
type kept struct {
	gate chan struct{}

	mu      sync.Mutex
	batches [][]auditv1.Event
	closed  bool
}

func (k *kept) send(ctx context.Context, events []*item) error {
	if k.gate != nil {
		select {
		case <-k.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var batch []auditv1.Event
	for _, i := range events {
		data, err := i.json()
		if err != nil {
			return err
		}
		var e auditv1.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return err
		}
		batch = append(batch, e)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.batches = append(k.batches, batch)
	return nil
}

func (k *kept) parallel() int { return 1 }

func (k *kept) close() error {
	k.closed = true
	return nil
}

func (k *kept) sizes() []int {
	k.mu.Lock()
	defer k.mu.Unlock()
	var sizes []int
	for _, b := range k.batches {
		sizes = append(sizes, len(b))
	}
	return sizes
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kept{}
		l := quiet(k, Delivery{Mode: Batch, BufferSize: 100, MaxBatchSize: 4, MaxBatchWait: time.Minute})
		for range 3 { // two events each
			if err := ask(l, "{}", "{}"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got, want := k.sizes(), []int{4}; !slices.Equal(got, want) {
			t.Errorf("batches of %v before the wait, want %v", got, want)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := k.sizes(), []int{4, 2}; !slices.Equal(got, want) {
			t.Errorf("batches of %v after the wait, want %v", got, want)
		}
		if err := ask(l, "{}", "{}"); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := k.sizes(), []int{4, 2, 2}; !slices.Equal(got, want) || !k.closed {
			t.Errorf("batches of %v at the end, want %v; closed: %v", got, want, k.closed)
		}
		if err := ask(l, "{}", "{}"); err != nil {
			t.Errorf("a request after the end: %v", err)
		}
		if n := testutil.ToFloat64(l.metrics.errors.WithLabelValues("buffered")); n != 2 {
			t.Errorf("%v events are counted as lost after the end, want 2", n)
		}
	})
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, began := &kept{}, time.Now()
		l := quiet(k, Delivery{Mode: Batch, BufferSize: 100, MaxBatchSize: 1, MaxBatchWait: time.Second, ThrottleEnable: true, ThrottleQPS: 1, ThrottleBurst: 2})
		for range 5 {
			if err := ask(l, "{}", "{}"); err != nil {
				t.Fatal(err)
			}
		}
		for len(k.sizes()) < 10 {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began).Round(time.Second); took != 8*time.Second {
			t.Errorf("10 batches took %v, want 8s: 2 at once, then one a second", took)
		}
		l.Close(t.Context())
	})
}

// TestSlowSink has a sink that does not answer: requests go on, what does not fit is counted, and closing ends all the same.
func TestSlowSink(t *testing.T) {
	k := &kept{gate: make(chan struct{})}
	l := quiet(k, Delivery{Mode: Batch, BufferSize: 10, MaxBatchSize: 5, MaxBatchWait: time.Millisecond})
	for range 100 {
		if err := ask(l, "{}", "{}"); err != nil {
			t.Fatal(err)
		}
	}
	lost := testutil.ToFloat64(l.metrics.errors.WithLabelValues("buffered"))
	if most := 2*100 - 10; lost < float64(most-20) || lost > float64(most) {
		t.Errorf("%v of 200 events are lost, where 10 wait and some are on their way", lost)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	l.Close(ctx)
	if got := testutil.ToFloat64(l.metrics.errors.WithLabelValues("log")) + lost; got != 200 {
		t.Errorf("%v events are counted as lost after the end, want all 200", got)
	}
}

func TestTruncates(t *testing.T) {
	k := &kept{}
	l := quiet(k, Delivery{Mode: Blocking, TruncateEnabled: true, TruncateMaxEventSize: 2000, TruncateMaxBatchSize: 2500})
	large := fmt.Sprintf("%q", strings.Repeat("x", 3000))
	for _, sent := range []string{`"small"`, large} {
		if err := ask(l, sent, `"answer"`); err != nil {
			t.Fatal(err)
		}
	}
	last := k.batches[3][0]
	if last.RequestObject != nil || last.ResponseObject != nil || last.Annotations[truncated] != "true" {
		t.Errorf("a large event was written as %+v", last)
	}
	if e := k.batches[1][0]; e.RequestObject == nil || e.Annotations != nil {
		t.Errorf("a small event was written as %+v", e)
	}
	var events []*item
	for range 5 {
		events = append(events, &item{event: &auditv1.Event{RequestURI: strings.Repeat("y", 1000)}})
	}
	k.batches = nil
	if !l.backends[0].deliver(append(events, &item{event: &auditv1.Event{RequestURI: strings.Repeat("z", 3000)}})) {
		t.Error("not delivered")
	}
	if got, want := k.sizes(), []int{2, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("a large batch was divided into %v, want %v", got, want)
	}
	if n := testutil.ToFloat64(l.metrics.errors.WithLabelValues("truncate")); n != 1 {
		t.Errorf("%v events are counted as too large, want 1", n)
	}
}

// TestFile opens a log in a folder that is not there, and rotates it.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "audit.log")
	l, err := Open(Config{PolicyFile: file(t, "policy", everything), File: File{Path: path, MaxSize: 1, MaxBackups: 1, Delivery: Delivery{Mode: Blocking}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 30 { // 60 events, 100 KB in every other one
		if err := ask(l, "{}", fmt.Sprintf("%q", strings.Repeat("x", 100_000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	logs, err := filepath.Glob(filepath.Join(filepath.Dir(path), "audit*.log"))
	if err != nil || len(logs) < 2 {
		t.Fatalf("logs are %v, %v; want one and those that were rotated", logs, err)
	}
	for _, log := range logs {
		info, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || info.Size() > 1<<20 {
			t.Errorf("%s has mode %v and %d bytes, want 0600 and 1 MiB at most", log, info.Mode(), info.Size())
		}
	}
	folder, err := os.Stat(filepath.Dir(path))
	if err != nil || folder.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", folder.Mode(), err)
	}
}

// TestFullDisk: a request is served whose events are lost, unless the mode is strict.
func TestFullDisk(t *testing.T) {
	for mode, refused := range map[Mode]bool{Blocking: false, BlockingStrict: true} {
		l, err := Open(Config{PolicyFile: file(t, "policy", everything), File: File{Path: "/dev/full", Delivery: Delivery{Mode: mode}}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(l, "{}", "{}"); (err != nil) != refused {
			t.Errorf("%s: the request ended with %v", mode, err)
		}
		lost, rejected := testutil.ToFloat64(l.metrics.errors.WithLabelValues("log")), testutil.ToFloat64(l.metrics.rejected)
		if refused && (lost != 1 || rejected != 1) || !refused && (lost != 2 || rejected != 0) {
			t.Errorf("%s: %v events are lost and %v requests rejected", mode, lost, rejected)
		}
		l.Close(t.Context())
	}
}

// collector is a webhook that answers with codes in turn, the last one again and again.
func collector(t *testing.T, codes ...int) (config string, got chan string) {
	got = make(chan string, 100)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Authorization") != "Bearer abc" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %v with %v", r.Header, err)
		}
		w.WriteHeader(codes[0])
		if len(codes) > 1 {
			codes = codes[1:]
		}
		got <- r.URL.String() + " " + string(body)
	}))
	t.Cleanup(server.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return file(t, "kubeconfig", fmt.Sprintf(`{apiVersion: v1, kind: Config, clusters: [{name: c, cluster: {server: "%s/events", certificate-authority-data: %s}}],
contexts: [{name: c, context: {cluster: c, user: u}}], current-context: c, users: [{name: u, user: {token: abc}}]}`, server.URL, ca)), got
}

func TestWebhook(t *testing.T) {
	config, got := collector(t, http.StatusInternalServerError, http.StatusOK)
	l, err := Open(Config{PolicyFile: file(t, "policy", everything), Webhook: Webhook{ConfigFile: config, InitialBackoff: time.Millisecond,
		Delivery: Delivery{Mode: Batch, BufferSize: 10, MaxBatchSize: 2, MaxBatchWait: time.Minute}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(l, "{}", "{}"); err != nil {
		t.Fatal(err)
	}
	first, second := <-got, <-got
	if first != second {
		t.Errorf("what was refused was sent again as %s, at first as %s", second, first)
	}
	data, ok := strings.CutPrefix(first, "/events?timeout=30s ")
	var list auditv1.EventList
	if err := json.Unmarshal([]byte(data), &list); err != nil || !ok {
		t.Fatalf("%v: %s", err, first)
	}
	if list.Kind != "EventList" || len(list.Items) != 2 || list.Items[0].Stage != auditv1.StageRequestReceived || list.Items[1].Stage != auditv1.StageResponseComplete {
		t.Errorf("got %s", data)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(l.metrics.errors.WithLabelValues("webhook")); n != 0 {
		t.Errorf("%v events are counted as lost", n)
	}
}

// TestWebhookThatRefuses: after five attempts the events are lost, and counted.
func TestWebhookThatRefuses(t *testing.T) {
	config, got := collector(t, http.StatusTeapot)
	l, err := Open(Config{PolicyFile: file(t, "policy", everything), Log: slog.New(slog.DiscardHandler), Webhook: Webhook{ConfigFile: config, InitialBackoff: time.Millisecond,
		Delivery: Delivery{Mode: BlockingStrict}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ask(l, "{}", "{}"); err == nil {
		t.Error("the request was served though its coming is not written down")
	}
	if len(got) != attempts {
		t.Errorf("%d attempts, want %d", len(got), attempts)
	}
	if n := testutil.ToFloat64(l.metrics.errors.WithLabelValues("webhook")); n != 1 {
		t.Errorf("%v events are counted as lost, want 1", n)
	}
	l.Close(t.Context())
}

func TestNothingIsWritten(t *testing.T) {
	config, _ := collector(t, http.StatusOK)
	for _, c := range []Config{
		{}, {PolicyFile: file(t, "policy", everything)}, {File: File{Path: "/dev/null", Delivery: Delivery{Mode: Blocking}}},
		{Webhook: Webhook{ConfigFile: config, Delivery: Delivery{Mode: Blocking}}},
	} {
		l, err := Open(c)
		if l != nil || err != nil {
			t.Errorf("%+v gave %v, %v", c, l, err)
		}
	}
	var l *Log
	if r := l.Begin(nil, nil); r != nil {
		t.Error("a Log that is nil has something written down")
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPanic(t *testing.T) {
	k := &kept{}
	l := quiet(k, Delivery{Mode: Blocking})
	r := httptest.NewRequest(http.MethodGet, "/version", nil)
	record := l.Begin(r, authorizer.AttributesRecord{Verb: "get", Path: "/version"})
	record.Panicked("at the disco")
	e := k.batches[0][0]
	if e.Stage != auditv1.StagePanic || e.ResponseStatus.Code != http.StatusInternalServerError || e.ResponseStatus.Message != "APIServer panic'd: at the disco" {
		t.Errorf("got %+v", e)
	}
}

// TestGoneClient: one that never got an answer is written down as if it had.
func TestGoneClient(t *testing.T) {
	k := &kept{}
	l := quiet(k, Delivery{Mode: Blocking})
	r := httptest.NewRequest(http.MethodGet, "/api/v1/pods?watch=1", nil)
	r.Header.Set("User-Agent", strings.Repeat("a", 2000))
	l.Begin(r, authorizer.AttributesRecord{Verb: "watch", Resource: "pods", ResourceRequest: true}).Completed(true)
	if len(k.batches) != 2 || k.batches[0][0].Stage != auditv1.StageResponseStarted || k.batches[1][0].Stage != auditv1.StageResponseComplete {
		t.Fatalf("got %+v", k.batches)
	}
	e := k.batches[1][0]
	if e.ResponseStatus.Message != "Connection closed early" || e.ResponseStatus.Code != http.StatusOK {
		t.Errorf("status is %+v", e.ResponseStatus)
	}
	if want := strings.Repeat("a", 1024) + "...TRUNCATED"; e.UserAgent != want {
		t.Errorf("the agent is %s", e.UserAgent)
	}
}

func BenchmarkRecord(b *testing.B) {
	l := quiet(&kept{}, Delivery{Mode: Blocking})
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	for _, level := range []auditv1.Level{auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequestResponse} {
		b.Run(string(level), func(b *testing.B) {
			l.policy.Rules = []auditv1.PolicyRule{{Level: level}}
			l.backends[0].sink = &lines{out: null}
			obj := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"n"},"data":{"x":%q}}`, strings.Repeat("x", 1024))
			r := httptest.NewRequest(http.MethodPost, "/api/v1/namespaces/n/configmaps", nil)
			a := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "u"}, Verb: "create", Resource: "configmaps", Namespace: "n", ResourceRequest: true}
			b.ReportAllocs()
			for b.Loop() {
				record := l.Begin(r, a)
				if record == nil {
					continue
				}
				record.Received()
				record.Asked(nil, func() ([]byte, error) { return []byte(obj), nil })
				record.Answered(nil, func() ([]byte, error) { return []byte(obj), nil })
				record.Started(http.StatusCreated, false)
				record.Completed(false)
			}
		})
	}
}
