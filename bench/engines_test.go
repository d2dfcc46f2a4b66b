package main

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestTemplateIsTheObject(t *testing.T) {
	original, err := newTemplate()
	if err != nil {
		t.Fatal(err)
	}
	body := original.clone()
	body.fill(17, 123, 4567)
	object, err := runtime.Decode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), body.bytes)
	if err != nil {
		t.Fatal(err)
	}
	m := object.(*v1.ConfigMap)
	if m.Namespace != "bench-0017" || m.Name != "map-0000000123" || !strings.HasPrefix(m.Data["payload"], "content-000000004567") || len(m.Data["payload"]) < 1000 {
		t.Errorf("got %s/%s with %.30q of %d bytes", m.Namespace, m.Name, m.Data["payload"], len(m.Data["payload"]))
	}
	if string(original.bytes) == string(body.bytes) {
		t.Error("the original was filled too")
	}
	traffic := &traffic{scale: engineScale{watchers: 100}}
	if got, want := traffic.path(http.MethodPut, 123), "/api/v1/namespaces/bench-0023/configmaps/map-0000000123"; got != want {
		t.Errorf("got path %s, want %s", got, want)
	}
	if got, want := traffic.path(http.MethodPost, 123), "/api/v1/namespaces/bench-0023/configmaps"; got != want {
		t.Errorf("got path %s, want %s", got, want)
	}
}

func TestChosen(t *testing.T) {
	names := func(list []contender) (all []string) {
		for _, c := range list {
			all = append(all, c.name())
		}
		return all
	}
	got, err := chosen([]string{"file", "mysql"})
	if want := []string{"kube-apiserver, etcd", "Skiff, file", "kube-apiserver, kine, mysql", "Skiff, mysql"}; err != nil || !slices.Equal(names(got), want) {
		t.Errorf("got %q, %v, want %q", names(got), err, want)
	}
	if got, err := chosen([]string{"all"}); err != nil || len(got) != len(contenders) {
		t.Errorf("all are %q, %v", names(got), err)
	}
	if got, err := chosen([]string{"files"}); err == nil {
		t.Errorf("an unknown storage gives %q", names(got))
	}
}

func TestKineEndpoint(t *testing.T) {
	for _, c := range []struct{ database, want string }{
		{"", "sqlite:///d/f?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&cache=shared"},
		{"postgres://u:p@127.0.0.1:5/d", "postgres://u:p@127.0.0.1:5/d?sslmode=disable"},
		{"mysql://u:p@127.0.0.1:5/d", "mysql://u:p@tcp(127.0.0.1:5)/d"},
	} {
		if got, err := kineEndpoint(c.database, "/d/f"); err != nil || got != c.want {
			t.Errorf("%q: got %q, %v, want %q", c.database, got, err, c.want)
		}
	}
}

// An event is counted once for each watcher, is never earlier than the answer, and is not counted if nobody was
// answered.
func TestSight(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	a := &audience{watchers: []*watcher{
		{seen: []answer{{1, at(15)}, {2, at(18)}, {2, at(30)}, {9, at(5)}}},
		{seen: []answer{{1, at(12)}}, broken: 1},
	}}
	got := a.sight([]answer{{1, at(10)}, {2, at(20)}, {3, at(30)}}, 2)
	if want := []time.Duration{0, 2 * time.Millisecond, 5 * time.Millisecond}; !slices.Equal(got.lags, want) || got.due != 6 || got.broken != 1 {
		t.Errorf("got lags %v of %d, %d broken, want %v of 6, 1 broken", got.lags, got.due, got.broken, want)
	}
	if a.count() != 0 {
		t.Error("what was seen is counted again")
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		part, of int
		want     string
	}{{0, 0, "0"}, {0, 10, "0"}, {10, 10, "100 %"}, {999_999, 1_000_000, "99.99 %"}, {1, 1_000_000, "0.01 %"}, {1, 3, "33.33 %"}} {
		if got := share(c.part, c.of); got != c.want {
			t.Errorf("%d of %d: got %q, want %q", c.part, c.of, got, c.want)
		}
	}
}

// A contender that failed has a row that says so, and the others their figures.
func TestEngineReport(t *testing.T) {
	done := func(n int, each time.Duration) writes {
		w := writes{outcome: outcome{elapsed: time.Second}}
		for range n {
			w.took, w.answers = append(w.took, each), append(w.answers, answer{})
		}
		return w
	}
	good := level{clients: 1, created: done(1000, time.Millisecond), updated: done(500, 2*time.Millisecond), took: time.Second,
		seen: sight{lags: make([]time.Duration, 1500), due: 1500}, spent: spent{time.Second / 4, time.Second / 2, time.Second / 4}}
	bad := good
	bad.created, bad.updated = done(100, time.Millisecond), done(100, time.Millisecond)
	bad.created.failed, bad.created.why = 100, errors.New("too\nslow")
	got := engineReport([]result{
		{contender: contender{storage: "etcd", server: kubeAlone}, levels: []level{bad}},
		{contender: contender{storage: "file", server: skiffAlone, beside: "etcd"}, levels: []level{good}},
		{contender: contender{storage: "mysql", server: skiffAlone, beside: "mysql"}, failed: errors.New("no database")},
	}, engineScale{clients: []int{1}, watchers: 10})
	for _, want := range []string{
		"| etcd | kube-apiserver | 100 | 1.0 | 1.0 | 100 | 1.0 | 1.0 | 33.33 % | 0.00 | 0.00 | 100 % |\n",
		"| file | Skiff | 1,000 | 1.0 | 1.0 | 500 | 2.0 | 2.0 | 0 | 0.00 | 0.00 | 100 % |\n",
		"| mysql | Skiff | – | – | – | – | – | – | – | – | – | – |\n",
		"| file | Skiff | kube-apiserver, etcd | 10.0 | 5.0 | 7.5 |\n",
		"| file | Skiff | 333 | 167 | 167 | 25 % | 1.0 of ",
		"- kube-apiserver, etcd: 100 creates failed at 1 client, the first with: too slow\n",
		"- Skiff, mysql: not measured to the end: no database\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
}

// What a child spent counts once it has ended, where that is asked for.
func TestProcessorTime(t *testing.T) {
	self := []int{os.Getpid()}
	at := func(ended bool) time.Duration {
		t.Helper()
		d, err := processorTime(self, ended)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	own, all := at(false), at(true)
	if err := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").Run(); err != nil {
		t.Fatal(err)
	}
	if children := at(true) - all - (at(false) - own); children < 20*time.Millisecond {
		t.Errorf("a child that counted to 200,000 took %v", children)
	}
	if _, err := processorTime([]int{1 << 30}, false); err == nil {
		t.Error("a process that is not there has spent time")
	}
}
