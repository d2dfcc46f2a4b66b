package aggregate_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

const mirrors = "/apis/mirror.example.com/v1/namespaces/default/mirrors"

// TestPassedOn: an extension server is told who asks, and nothing that a client
// made up about that. What it is told was seen with kube-apiserver.
func TestPassedOn(t *testing.T) {
	c := start(t)
	c.extend(t, nil)
	c.await(t, "v1.mirror.example.com", "Passed")
	code, text := c.do(t, http.MethodGet, mirrors+"/x?a=b&c=d%20e&pretty", "", http.Header{
		"X-Remote-User": {"evil"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-Foo": {"bar"}, "X-Remote-Uid": {"1"}, "Authorization": {"Bearer x"},
		"X-Forwarded-For": {"1.2.3.4"}, "Audit-Id": {"7"}, "Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"test"},
		"x-remote-user": {"evil in small letters"},
	})
	var got asked
	if err := json.Unmarshal([]byte(text), &got); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s: %v", code, text, err)
	}
	want := asked{Method: "GET", URI: mirrors + "/x?a=b&c=d+e&pretty=", Host: address + ":9443", Name: "front-proxy-client", Header: http.Header{
		"X-Remote-User": {"admin"}, "X-Remote-Group": {"system:masters", "system:authenticated"},
		"X-Forwarded-Host": {address + ":9443"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Uri": {mirrors + "/x"},
		"Audit-Id": {"7"}, "Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"test"},
	}}
	// In process there is no address of a client.
	ignore := cmpopts.IgnoreMapEntries(func(name string, _ []string) bool { return name == "X-Forwarded-For" })
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestAuthorized: who may not do something is told so by this server; an
// extension server is not asked.
func TestAuthorized(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	c.await(t, "v1.mirror.example.com", "Passed")
	e.become(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the extension server was asked for %s as %s", r.URL, r.Header.Get("X-Remote-User"))
	})
	c.http.Transport = apiservertest.Config(c.Server, "joe", "nobody").Transport
	code, text := c.do(t, http.MethodGet, mirrors+"/x", "", nil)
	if want := `User \"joe\" cannot get resource \"mirrors\" in API group \"mirror.example.com\" in the namespace \"default\"`; code != http.StatusForbidden || !strings.Contains(text, want) {
		t.Errorf("got %d %s", code, text)
	}
}

// TestAnswersOfBadServers: what kube-apiserver answers then.
func TestAnswersOfBadServers(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	c.await(t, "v1.mirror.example.com", "Passed")
	for _, test := range []struct {
		name string
		do   http.HandlerFunc
		code int
		text string
	}{
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/", http.StatusFound)
		},
			http.StatusBadGateway, "the backend attempted to redirect this request, which is not permitted"},
		{"no redirect", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) }, http.StatusNotModified, ""},
		{"an error of its own", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "mine", http.StatusTeapot) }, http.StatusTeapot, "mine\n"},
		{"none", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, http.StatusServiceUnavailable, "error trying to reach service: stream error:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e.become(test.do)
			code, text := c.do(t, http.MethodGet, mirrors+"/x", "", nil)
			if code != test.code || !strings.HasPrefix(text, test.text) {
				t.Errorf("got %d %q, want %d %q", code, text, test.code, test.text)
			}
		})
	}
	c.hosts.Delete(address + ":9443")
	e.CloseClientConnections()
	c.seen(t, mirrors+"/x", nil, func(code int, text string) bool {
		return code == http.StatusServiceUnavailable && text == "error trying to reach service: dial tcp 192.0.2.10:9443: connect: connection refused\n"
	})
}

// TestHeadersOnce: what both servers say is said by the extension server.
func TestHeadersOnce(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	c.await(t, "v1.mirror.example.com", "Passed")
	e.become(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public")
		w.Header().Set("Audit-Id", r.Header.Get("Audit-Id"))
	})
	_, header, _ := c.ask(t, http.MethodGet, mirrors+"/x", "", http.Header{"Audit-Id": {"7"}})
	if diff := cmp.Diff([][]string{{"public"}, {"7"}}, [][]string{header["Cache-Control"], header["Audit-Id"]}); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestStreams: what comes is passed on when it comes, in both directions.
func TestStreams(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	c.await(t, "v1.mirror.example.com", "Passed")
	more, gone := make(chan bool), make(chan bool)
	e.become(func(w http.ResponseWriter, r *http.Request) {
		for n := 0; ; n++ {
			fmt.Fprintln(w, n)
			w.(http.Flusher).Flush()
			select {
			case <-more:
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://server"+mirrors+"?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(answer.Body)
	for n := range 3 {
		if n > 0 {
			more <- true
		}
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintln(n) {
			t.Fatalf("event %d: got %q, %v", n, line, err)
		}
	}
	answer.Body.Close()
	<-gone // the server is told when a client leaves
}

// TestUpgrades: a connection that is no longer HTTP is passed on.
func TestUpgrades(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	c.await(t, "v1.mirror.example.com", "Passed")
	who := make(chan string, 1)
	e.become(func(w http.ResponseWriter, r *http.Request) {
		who <- r.Header.Get("X-Remote-User")
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		kind, message, err := conn.Read(r.Context())
		if err == nil {
			err = conn.Write(r.Context(), kind, append(message, " back"...))
		}
		if err != nil {
			t.Error(err)
		}
		conn.Close(websocket.StatusNormalClosure, "")
	})
	conn, _, err := websocket.Dial(t.Context(), "http://"+c.listen(t, nil)+mirrors+"/x/exec",
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if got := <-who; got != "someone" {
		t.Errorf("the user is %q", got)
	}
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("there and")); err != nil {
		t.Fatal(err)
	}
	if _, message, err := conn.Read(t.Context()); err != nil || string(message) != "there and back" {
		t.Errorf("got %q, %v", message, err)
	}
}

// listen serves on a socket, and returns its address.
func (c *cluster) listen(t *testing.T, config *tls.Config) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, l, config) }()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addr().String()
}

// TestSlowServer: requests that wait for an extension server take nothing from
// those that do not, and are not more than it is worth.
func TestSlowServer(t *testing.T) {
	c := startWith(t, func(o *apiserver.Options) { o.Limits.MaxRequests = 8 })
	e := c.extend(t, nil)
	c.await(t, mirrorService, "Passed")
	joe := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "joe"}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: "joe"}},
		RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "cluster-admin"}}
	if _, err := c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), joe, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const most = 400
	arrived, leave := make(chan bool, most), make(chan bool)
	e.become(func(http.ResponseWriter, *http.Request) {
		arrived <- true
		<-leave
	})
	c.http.Transport = apiservertest.Config(c.Server, "joe", "people").Transport
	c.seen(t, "/api/v1/configmaps", nil, func(code int, _ string) bool { return code == http.StatusOK })
	var waiting sync.WaitGroup
	for range most {
		waiting.Go(func() {
			if code, text := c.do(t, http.MethodGet, mirrors+"/x", "", nil); code != http.StatusOK {
				t.Errorf("%d %s", code, text)
			}
		})
	}
	for range most {
		<-arrived
	}
	if code, text := c.do(t, http.MethodGet, "/api/v1/configmaps", "", nil); code != http.StatusOK {
		t.Errorf("what is served here: %d %s", code, text)
	}
	if code, text := c.do(t, http.MethodGet, mirrors+"/x", "", nil); code != http.StatusTooManyRequests {
		t.Errorf("one too many: %d %s", code, text)
	}
	close(leave)
	waiting.Wait()
}
