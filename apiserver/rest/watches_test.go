package rest_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/request"
)

// Of a thousand watches whose clients left, some with a word and some without,
// nothing stays behind.
func TestBrokenWatchesLeaveNothing(t *testing.T) {
	s := apiservertest.Start(t, nil)
	admin := &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.Handler().ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), admin)))
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()

	var mu sync.Mutex
	var dialed []net.Conn
	transport := server.Client().Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		dialed = append(dialed, c)
		return c, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const watches = 1000
	for i := range watches {
		lives := ctx
		if i%2 == 0 { // the others end with their connections
			lives = t.Context()
		}
		path := []string{"configmaps", "namespaces/default/configmaps", "pods?fieldSelector=spec.nodeName%3Dn", "namespaces/default/secrets?fieldSelector=metadata.name%3Dx"}[i%4]
		mark := "?"
		if strings.Contains(path, "?") {
			mark = "&"
		}
		r, err := http.NewRequestWithContext(lives, http.MethodGet, server.URL+"/api/v1/"+path+mark+"watch=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("watch %d of %s: %v, %v", i, path, resp, err)
		}
		defer resp.Body.Close()
	}
	if got := streams(t); got != watches {
		t.Errorf("%d watches are served, want %d", got, watches)
	}
	cancel()
	for _, c := range dialed {
		c.Close()
	}
	for began := time.Now(); streams(t) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("%d watches are still served after %v", streams(t), time.Since(began))
		}
	}
}

// streams counts the goroutines that serve watches.
func streams(t *testing.T) (n int) {
	t.Helper()
	var stacks strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
		t.Fatal(err)
	}
	// After a line of title, equal stacks come once, after their number.
	_, groups, _ := strings.Cut(stacks.String(), "\n")
	for group := range strings.SplitSeq(groups, "\n\n") {
		var equal int
		if _, err := fmt.Sscan(group, &equal); err == nil && strings.Contains(group, "rest.(*stream).run") {
			n += equal
		}
	}
	return n
}
