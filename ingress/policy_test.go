package ingress

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAnnotations asks Ingresses that have one annotation or some.
func TestAnnotations(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", echo("web"))
	w.service("web", "10.0.0.1")
	w.secret("users", corev1.SecretTypeOpaque, map[string][]byte{"auth": []byte("me:{PLAIN}secret\n")})
	certPEM, keyPEM := pair(t, "tls.example", "tls2.example")
	w.secret("tls", corev1.SecretTypeTLS, map[string][]byte{"tls.crt": certPEM, "tls.key": keyPEM})
	type annotations = map[string]string
	tests := []struct {
		annotations
		ask     string // method and URL without host, then headers
		code    int
		headers string // "name: value" of the answer
		body    string // what it has in it
	}{
		{annotations{"app-root": "/start"}, "GET http /", 302, "Location: /start", ""},
		{annotations{"app-root": "/start"}, "GET http /x", 200, "", "web GET /x"},
		{annotations{"permanent-redirect": "https://new.example$request_uri"}, "GET http /a?b=c", 301, "Location: https://new.example/a?b=c", ""},
		{annotations{"permanent-redirect": "https://new.example", "permanent-redirect-code": "308"}, "GET http /", 308, "Location: https://new.example", ""},
		{annotations{"temporal-redirect": "https://new.example"}, "GET http /", 302, "Location: https://new.example", ""},
		{annotations{"force-ssl-redirect": "true"}, "GET http /a", 308, "Location: https://HOST/a", ""},
		{annotations{"force-ssl-redirect": "true"}, "GET https /a", 200, "", "x-forwarded-proto: https"},
		{annotations{"upstream-vhost": "inside"}, "GET http /", 200, "", "\nhost: inside\n"},
		{annotations{"upstream-vhost": "inside"}, "GET http /", 200, "", "x-forwarded-host: HOST\n"},
		{annotations{"whitelist-source-range": "10.0.0.0/8, 192.0.2.1"}, "GET http /", 403, "", ""},
		{annotations{"whitelist-source-range": "127.0.0.0/8"}, "GET http /", 200, "", ""},
		{annotations{"denylist-source-range": "127.0.0.1"}, "GET http /", 403, "", ""},
		{annotations{"auth-type": "basic", "auth-secret": "users", "auth-realm": "R"}, "GET http /", 401, `WWW-Authenticate: Basic realm="R"`, ""},
		{annotations{"auth-type": "basic", "auth-secret": "users"}, "GET http / Authorization: Basic bWU6d3Jvbmc=", 401, "", ""},
		{annotations{"auth-type": "basic", "auth-secret": "users"}, "GET http / Authorization: Basic bWU6c2VjcmV0", 200, "", ""},
		{annotations{"auth-type": "basic", "auth-secret": "missing"}, "GET http / Authorization: Basic bWU6c2VjcmV0", 503, "", ""},
		{annotations{"configuration-snippet": "deny all;"}, "GET http /", 503, "", ""},
		{annotations{"auth-url": "http://x"}, "GET http /", 503, "", ""},
		{annotations{"no-such": "x"}, "GET http /", 200, "", ""},
		{annotations{"enable-cors": "true"}, "OPTIONS http / Origin: https://a.example", 204, "Access-Control-Allow-Methods: GET, PUT, POST, DELETE, PATCH, OPTIONS", ""},
		{annotations{"enable-cors": "true"}, "GET http / Origin: https://a.example", 200, "Access-Control-Allow-Origin: *", ""},
		{annotations{"enable-cors": "true", "cors-allow-origin": "https://*.a.example"}, "GET http / Origin: https://x.a.example", 200, "Access-Control-Allow-Origin: https://x.a.example", ""},
		{annotations{"enable-cors": "true", "cors-allow-origin": "https://*.a.example"}, "GET http / Origin: https://evil.example", 200, "Access-Control-Allow-Origin: ", ""},
		{annotations{"enable-cors": "true", "cors-allow-origin": "https://*.a.example"}, "GET http / Origin: https://evil.x.a.example", 200, "Access-Control-Allow-Origin: ", ""},
		{annotations{"use-regex": "true"}, "GET http /anything", 200, "", "web GET /anything"},
	}
	for i, test := range tests {
		w.routeLater(fmt.Sprintf("t%d", i), test.annotations, fmt.Sprintf("t%d.example / web", i))
	}
	w.effective()
	for i, test := range tests {
		name, host := fmt.Sprintf("%v %s", test.annotations, test.ask), fmt.Sprintf("t%d.example", i)
		f := strings.SplitN(test.ask, " ", 4)
		res, body := w.ask(f[0], f[1]+"://"+host+f[2], nil, f[3:]...)
		if res.StatusCode != test.code || !strings.Contains(body, strings.ReplaceAll(test.body, "HOST", host)) {
			t.Errorf("%s: got %s %s", name, res.Status, body)
		}
		if header, value, ok := strings.Cut(test.headers, ": "); ok && res.Header.Get(header) != strings.ReplaceAll(value, "HOST", host) {
			t.Errorf("%s: got %s %q", name, header, res.Header.Get(header))
		}
	}
	w.informed("t16", "nginx.ingress.kubernetes.io/configuration-snippet is refused")
}

// routeLater makes an Ingress without waiting for its effect.
func (w *world) routeLater(name string, annotations map[string]string, paths ...string) {
	w.t.Helper()
	if _, err := w.NetworkingV1().Ingresses(namespace).Create(w.t.Context(), newIngress(name, annotations, paths...), metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func TestSSLRedirectCanBeTurnedOff(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", echo("web"))
	w.service("web", "10.0.0.1")
	for name, value := range map[string]string{"on": "true", "off": "false"} {
		ing := newIngress(name, map[string]string{"ssl-redirect": value}, name+".example / web")
		ing.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{name + ".example"}}}
		if _, err := w.NetworkingV1().Ingresses(namespace).Create(t.Context(), ing, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.effective()
	for name, want := range map[string]int{"on": 308, "off": 200} {
		if res, _ := w.ask("GET", "http://"+name+".example/", nil); res.StatusCode != want {
			t.Errorf("ssl-redirect %s: got %s", name, res.Status)
		}
	}
}

func TestAffinity(t *testing.T) {
	w := start(t)
	for i := 1; i <= 3; i++ {
		w.back(fmt.Sprintf("10.0.0.%d:8080", i), echo(fmt.Sprint("e", i)))
	}
	w.service("web", "10.0.0.1", "10.0.0.2", "10.0.0.3")
	w.route("web", map[string]string{"affinity": "cookie", "session-cookie-name": "at", "session-cookie-max-age": "60", "session-cookie-samesite": "lax"}, "a.example /app web")
	res, first := w.ask("GET", "http://a.example/app", nil)
	cookies := res.Cookies()
	if len(cookies) != 1 || cookies[0].Name != "at" || cookies[0].Path != "/app" || cookies[0].MaxAge != 60 || cookies[0].SameSite != http.SameSiteLaxMode || !cookies[0].HttpOnly || cookies[0].Secure {
		t.Fatalf("got %v", cookies)
	}
	for range 6 {
		res, body := w.ask("GET", "http://a.example/app", nil, "Cookie: at="+cookies[0].Value)
		if body[:2] != first[:2] || len(res.Cookies()) != 0 {
			t.Errorf("%.2s after %.2s, cookies %v", body, first, res.Cookies())
		}
	}
	gone := "10.0.0." + first[1:2]
	var left []string
	for _, e := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		if e != gone {
			left = append(left, e)
		}
	}
	w.move("web", left...)
	w.effective()
	w.eventually("another endpoint", func() error {
		res, body := w.ask("GET", "http://a.example/app", nil, "Cookie: at="+cookies[0].Value)
		if body[:2] == first[:2] || len(res.Cookies()) != 1 {
			return fmt.Errorf("%.2s, cookies %v", body, res.Cookies())
		}
		return nil
	})
}

func TestCanary(t *testing.T) {
	w := start(t)
	w.back("10.0.0.1:8080", echo("main"))
	w.back("10.0.0.2:8080", echo("next"))
	w.service("main", "10.0.0.1")
	w.service("next", "10.0.0.2")
	w.route("main", nil, "h.example / main", "v.example / main", "w.example / main")
	w.route("h", map[string]string{"canary": "true", "canary-by-header": "X-Next", "canary-by-cookie": "next", "canary-weight": "0"}, "h.example / next")
	w.route("v", map[string]string{"canary": "true", "canary-by-header": "X-Next", "canary-by-header-pattern": "^(a|b)$"}, "v.example / next")
	w.route("w", map[string]string{"canary": "true", "canary-weight": "1", "canary-weight-total": "2"}, "w.example / next")
	for _, test := range []struct{ host, header, want string }{
		{"h", "X-None: x", "main"}, {"h", "X-Next: always", "next"}, {"h", "X-Next: never", "main"}, {"h", "X-Next: other", "main"},
		{"h", "Cookie: next=always", "next"}, {"v", "X-Next: a", "next"}, {"v", "X-Next: always", "main"},
	} {
		if _, body := w.ask("GET", "http://"+test.host+".example/", nil, test.header); !strings.HasPrefix(body, test.want) {
			t.Errorf("%s with %s: got %.4s", test.host, test.header, body)
		}
	}
	counts := map[string]int{}
	for range 60 { // all the same by chance once in 2^59
		_, body := w.ask("GET", "http://w.example/", nil)
		counts[body[:4]]++
	}
	if counts["main"] == 0 || counts["next"] == 0 {
		t.Errorf("half of them: got %v", counts)
	}
}

func TestRates(t *testing.T) {
	l := newLimits()
	m := meter{client{address: netip.MustParseAddr("192.0.2.1")}, time.Second}
	now := time.Unix(1000, 0)
	let := func(n int) (in int) {
		for range n {
			if l.take(m, 2, 3, now) {
				in++
			}
		}
		return in
	}
	if got := let(20); got != 7 { // two a second, three times that at once, and the one that is due
		t.Errorf("at first %d of 20 are let in", got)
	}
	now = now.Add(time.Second)
	if got := let(20); got != 2 {
		t.Errorf("after a second %d of 20 are let in", got)
	}
	now = now.Add(time.Hour)
	if got := let(20); got != 7 {
		t.Errorf("after an hour %d of 20 are let in", got)
	}
	for i := range 2 * rememberedClients {
		l.take(meter{client{address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}, time.Second}, 2, 3, now)
	}
	if len(l.rates) > rememberedClients {
		t.Errorf("%d clients are remembered", len(l.rates))
	}
}

func TestConnectionsOfAClientAreLimited(t *testing.T) {
	w := start(t)
	inside, leave := make(chan struct{}, 10), make(chan struct{})
	w.back("10.0.0.1:8080", func(rw http.ResponseWriter, r *http.Request) {
		inside <- struct{}{}
		<-leave
	})
	w.service("web", "10.0.0.1")
	w.route("web", map[string]string{"limit-connections": "2"}, "a.example / web")
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			if res, err := w.try("GET", "http://a.example/", nil); err != nil || res.StatusCode != 200 {
				t.Errorf("got %v %v", res, err)
			}
		})
		<-inside
	}
	if res, _ := w.ask("GET", "http://a.example/", nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a third: got %s", res.Status)
	}
	close(leave)
	running.Wait()
	w.eventually("another", func() error {
		if res, _ := w.ask("GET", "http://a.example/", nil); res.StatusCode != 200 {
			return fmt.Errorf("got %s", res.Status)
		}
		return nil
	})
}
