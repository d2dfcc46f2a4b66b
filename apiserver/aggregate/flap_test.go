package aggregate_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// flapping is a cluster whose extension server fails in every way.
type flapping struct {
	*cluster
	*extension
	good, reset, silent, babble string // addresses of what can be behind the Service
	connected                   event  // to silent
	others                      *authority
	pokes                       int
}

func flap(t *testing.T) *flapping {
	c := start(t)
	f := &flapping{cluster: c, extension: c.extend(t, nil), others: newAuthority(t), connected: make(event, 1)}
	f.good = f.Listener.Addr().String()
	f.reset = serveRaw(t, func(conn net.Conn) {
		conn.(*net.TCPConn).SetLinger(0)
	})
	f.silent = serveRaw(t, func(conn net.Conn) {
		f.connected.happened()
		io.Copy(io.Discard, conn) // until the other side gives up
	})
	certificate := *c.issue(t, "mirror", "mirror.default.svc")
	f.babble = serveRaw(t, func(conn net.Conn) {
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
		secure.Write(append([]byte(strings.Repeat("\x00", 900<<10)), '\n'))
		io.Copy(io.Discard, secure)
	})
	return f
}

// serveRaw has do speak with whoever connects, and returns where to. What is open is closed at the end of the test.
func serveRaw(t *testing.T, do func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			running.Go(func() {
				do(conn)
				conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return l.Addr().String()
}

// event has a token if something has happened that nobody has waited for.
type event chan bool

func (e event) happened() {
	select {
	case e <- true:
	default:
	}
}

// at says what is behind the Service from now on.
func (f *flapping) at(host string) {
	f.hosts.Store(address+":9443", host)
	f.CloseClientConnections()
}

// turn is a thing that happens to the extension server, and what is seen of it before the next does.
type turn struct {
	do    func(round int)
	until func()
}

// turns are made in this order, over and over. What hangs is followed by what ends it at once, so that no turn takes
// as long as a time limit.
func (f *flapping) turns(t *testing.T) []turn {
	edit := func(format string, args ...any) { f.merge(t, services+"/"+mirrorService, fmt.Sprintf(format, args...)) }
	trust := func(a *authority) func(int) {
		return func(round int) {
			bundle, err := json.Marshal(a.pem)
			if err != nil {
				t.Fatal(err)
			}
			edit(`{"spec":{"caBundle":%s,"versionPriority":%d}}`, bundle, 1+round%100)
		}
	}
	at := func(host string) func(int) { return func(int) { f.at(host); f.poke(t) } }
	reason := func(want string) func() { return func() { f.await(t, mirrorService, want) } }
	fails, passes := reason("FailedDiscoveryCheck"), reason("Passed")
	// away and back have the server asked anew what it serves.
	away := turn{func(int) { f.endpoints(t, "[]") }, reason("MissingEndpoints")}
	back := func(say http.HandlerFunc) func(int) {
		return func(int) {
			f.say(say)
			f.endpoints(t, `[{"addresses":["`+address+`"]}]`)
		}
	}
	arrived := make(event, 1)
	hang := func(_ http.ResponseWriter, r *http.Request) {
		arrived.happened()
		<-r.Context().Done()
	}
	garbage := text("\x00<html>")
	return []turn{
		{at("127.0.0.1:1"), fails},
		{at(f.good), passes},
		{at(f.reset), fails},
		{at(f.good), passes},
		{at(f.silent), func() { <-f.connected }},
		{trust(f.others), fails},
		{func(round int) { f.at(f.good); trust(f.authority)(round) }, passes},
		{at(f.babble), func() {
			if got := len(f.await(t, mirrorService, "FailedDiscoveryCheck").Message); got > 40<<10 {
				t.Errorf("the condition has %d bytes", got)
			}
		}},
		{at(f.good), passes},
		away, {back(garbage), passes},
		away, {back(large), passes},
		away, {func(round int) {
			f.describes(text(strings.ReplaceAll(swaggerOfMirror, "Mirror", fmt.Sprint("Mirror", round))), garbage)
			f.endpoints(t, `[{"addresses":["`+address+`"]}]`)
		}, passes},
		away, {back(hang), func() { <-arrived }},
		{
			func(int) { f.want(t, http.MethodDelete, services+"/"+mirrorService, "", "", http.StatusOK) },
			func() {
				f.seen(t, mirrorsVersion, nil, func(code int, _ string) bool { return code == http.StatusNotFound })
			},
		},
		{func(round int) {
			f.say(f.describeMirrors)
			f.register(t, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: mirrorService}, Spec: apiregistrationv1.APIServiceSpec{
				Group: "mirror.example.com", Version: "v1", GroupPriorityMinimum: 2000, VersionPriority: int32(1 + round%100), CABundle: f.authority.pem,
				Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "mirror"}}})
		}, passes},
	}
}

const mirrorSlice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/mirror-1"

// poke is a reason to ask the extension server how it is.
func (f *flapping) poke(t *testing.T) {
	t.Helper()
	f.pokes++
	f.merge(t, mirrorSlice, fmt.Sprintf(`{"metadata":{"annotations":{"poked":"%d"}}}`, f.pokes))
}

func (f *flapping) endpoints(t *testing.T, list string) {
	t.Helper()
	f.merge(t, mirrorSlice, `{"endpoints":`+list+`}`)
}

func (c *cluster) merge(t *testing.T, path, patch string) {
	t.Helper()
	c.want(t, http.MethodPatch, path, patch, "application/merge-patch+json", http.StatusOK)
}

// large is a document of 10 MB, which is one.
func large(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"kind":"APIResourceList","groupVersion":"mirror.example.com/v1","resources":[`)
	for n := range 10 << 10 {
		fmt.Fprintf(w, `{"name":"mirrors%d","kind":"%s","verbs":["get"]},`, n, strings.Repeat("x", 1<<10))
	}
	io.WriteString(w, `{"name":"mirrors","kind":"Mirror","verbs":["get"]}]}`)
}

func (c *cluster) want(t *testing.T, method, path, body, contentType string, want int) {
	t.Helper()
	if code, text := c.do(t, method, path, body, http.Header{"Content-Type": {contentType}}); code != want {
		t.Fatalf("%s %s: %d %s", method, path, code, text)
	}
}

// neighbours asks for what is no extension server's until ctx ends; all of it is answered as ever.
func (c *cluster) neighbours(ctx context.Context, t *testing.T) (asked int) {
	own := func(paths map[string]any) (hashes []string) {
		for path, at := range paths {
			if !strings.Contains(path, "mirror") {
				hashes = append(hashes, fmt.Sprint(path, at.(map[string]any)["serverRelativeURL"]))
			}
		}
		slices.Sort(hashes)
		return hashes
	}
	_, groups := c.group(t)
	documents := own(c.document(t, "/openapi/v3")["paths"].(map[string]any))
	without := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == "mirror.example.com" })
	}
	for ; ctx.Err() == nil; asked++ {
		if _, now := c.group(t); !slices.Equal(without(now), without(groups)) {
			t.Errorf("groups are %q", now)
		}
		if now := own(c.document(t, "/openapi/v3")["paths"].(map[string]any)); !slices.Equal(now, documents) {
			t.Errorf("documents are %q", now)
		}
		var plain struct{ Groups []struct{ Name string } }
		if _, body := c.do(t, http.MethodGet, "/apis", "", nil); json.Unmarshal([]byte(body), &plain) != nil || len(plain.Groups) < len(without(groups)) {
			t.Errorf("plain discovery: %.200s", body)
		}
		if paths := slices.Collect(maps.Keys(c.document(t, "/openapi/v2")["paths"].(map[string]any))); !slices.Contains(paths, "/apis/apps/v1/deployments") {
			t.Errorf("paths are %q", paths)
		}
		for _, path := range []string{"/apis/apps/v1", "/apis/apps/v1/namespaces/default/deployments", "/api/v1/nodes", services} {
			if code, body := c.do(t, http.MethodGet, path, "", nil); code != http.StatusOK {
				t.Errorf("%s: %d %.200s", path, code, body)
			}
		}
	}
	return asked
}

// visit is somebody who asks the extension server for something, and does not wait long for an answer.
func (f *flapping) visit(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://server"+mirrors+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := f.http.Do(r)
	if err != nil {
		return // he has gone
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); len(body) > 40<<10 {
		t.Errorf("an answer of %d bytes", len(body))
	}
}

// TestFlapping: whatever an extension server does, hundreds of times, all else is answered as before, the
// conditions are right in the end, and what it took is given back.
func TestFlapping(t *testing.T) {
	f := flap(t)
	f.await(t, mirrorService, "Passed")
	turns := f.turns(t)
	run := func(times int) {
		for round := range times * len(turns) {
			turn := turns[round%len(turns)]
			turn.do(round)
			f.visit(t)
			turn.until()
			f.visit(t)
		}
		f.seen(t, "/apis", all, func(int, string) bool { got, _ := f.group(t); return strings.Contains(got, `"mirrors"`) })
		f.seen(t, mirrors+"/x", nil, func(code int, _ string) bool { return code == http.StatusOK })
	}

	ctx, end := context.WithCancel(t.Context())
	var others sync.WaitGroup
	asked := 0
	others.Go(func() { asked = f.neighbours(ctx, t) })
	run(2)
	heap, goroutines := f.quiet()
	run(12)
	end()
	others.Wait()
	if asked == 0 {
		t.Error("the neighbours were never answered")
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		now, running := f.quiet()
		if running <= goroutines && now < heap+16<<20 {
			t.Logf("%d rounds of questions of others; the heap had %d KiB and has %d, goroutines were %d and are %d", asked, heap>>10, now>>10, goroutines, running)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the heap had %d KiB and has %d, goroutines were %d and are %d", heap>>10, now>>10, goroutines, running)
		}
	}

	f.at("127.0.0.1:1")
	f.poke(t)
	f.await(t, mirrorService, "FailedDiscoveryCheck")
	f.seen(t, "/apis", all, func(int, string) bool { got, _ := f.group(t); return got == `[{"version":"v1","freshness":"Stale"}]` })
	f.want(t, http.MethodDelete, services+"/"+mirrorService, "", "", http.StatusOK)
	f.seen(t, "/apis", all, func(int, string) bool { got, _ := f.group(t); return got == "" })
}

// quiet measures what is held when nothing that was used once is kept.
func (f *flapping) quiet() (heap uint64, goroutines int) {
	f.CloseClientConnections()
	runtime.GC()
	runtime.GC() // what the first had finalizers run for
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, runtime.NumGoroutine()
}

// TestSlowDescription: a server that takes its time to describe itself is seen to be gone all the same.
func TestSlowDescription(t *testing.T) {
	f := flap(t)
	arrived, said := make(event, 1), make(chan string, 8)
	hang := func(_ http.ResponseWriter, r *http.Request) {
		arrived.happened()
		<-r.Context().Done()
		select {
		case said <- f.reason(): // when this server waited no longer
		default:
		}
	}
	f.describes(hang, hang)
	f.retry(t)
	<-arrived
	f.endpoints(t, "[]")
	f.await(t, mirrorService, "MissingEndpoints")
	if got := <-said; got != "MissingEndpoints" {
		t.Errorf("while it describes itself the condition is %q", got)
	}
}

// reason is that of the condition of the APIService now, or what kept it from being read.
func (f *flapping) reason() string {
	answer, err := f.http.Get("https://server" + services + "/" + mirrorService)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	var o apiregistrationv1.APIService
	if err := json.NewDecoder(answer.Body).Decode(&o); err != nil {
		return err.Error()
	}
	c := helper.GetAPIServiceConditionByType(&o, apiregistrationv1.Available)
	if c == nil {
		return "none"
	}
	return c.Reason
}
