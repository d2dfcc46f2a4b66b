package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// rule is "host path Type service", with Prefix as the default type.
func rule(text string) networkingv1.IngressRule {
	f := strings.Fields(text)
	host := strings.TrimSuffix(f[0], "-")
	kind := networkingv1.PathTypePrefix
	if len(f) > 3 {
		kind = networkingv1.PathType(f[3])
	}
	return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
		Path: f[1], PathType: &kind, Backend: backendOf(f[2]),
	}}}}}
}

func backendOf(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

// newIngress is one of namespace/name, made that many seconds after the first.
func newIngress(name string, age int, annotations map[string]string, rules ...string) *networkingv1.Ingress {
	namespace, name, _ := strings.Cut(name, "/")
	ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, CreationTimestamp: metav1.Unix(int64(1000+age), 0), Annotations: map[string]string{},
	}}
	for k, v := range annotations {
		ing.Annotations[Prefix+k] = v
	}
	for _, r := range rules {
		ing.Spec.Rules = append(ing.Spec.Rules, rule(r))
	}
	return ing
}

func tableOf(ingresses ...*networkingv1.Ingress) (*Table, *Builder) {
	b := NewBuilder(func(Key) *corev1.Secret { return nil })
	for _, ing := range ingresses {
		b.Set(ing)
	}
	t, _ := b.Table()
	return t, b
}

func served(t *Table, host, path string) string {
	l, redirect := t.Find(host, path)
	switch {
	case redirect != "":
		return "to " + redirect
	case l == nil:
		return "404"
	}
	return l.Backend.Service.Name
}

func TestFind(t *testing.T) {
	withDefault := newIngress("a/default", 0, nil)
	withDefault.Spec.DefaultBackend = ptr.To(backendOf("fallback"))
	hostDefault := newIngress("a/d", 0, nil, "a.example /x x")
	hostDefault.Spec.DefaultBackend = ptr.To(backendOf("own"))
	for _, test := range []struct {
		name      string
		ingresses []*networkingv1.Ingress
		want      map[string]string // "host path": service
	}{
		{"exact before prefix before shorter", []*networkingv1.Ingress{newIngress("a/a", 0, nil,
			"a.example / root", "a.example /foo foo", "a.example /foo exact Exact", "a.example /foo/bar bar", "a.example /stem stem ImplementationSpecific")},
			map[string]string{"a.example /": "root", "a.example /foo": "exact", "a.example /foo/": "foo", "a.example /foo/x": "foo", "a.example /foobar": "root",
				"a.example /foo/bar": "bar", "a.example /foo/barn": "foo", "a.example /stem": "stem", "a.example /stemmed": "stem", "a.example /ste": "root", "b.example /": "404"}},
		{"a slash at the end of a prefix", []*networkingv1.Ingress{newIngress("a/a", 0, nil, "a.example /foo/ foo", "a.example /bar/ bar Exact")},
			map[string]string{"a.example /foo": "foo", "a.example /foo/": "foo", "a.example /foo/x": "foo", "a.example /foox": "404", "a.example /bar": "404", "a.example /bar/": "bar"}},
		{"wildcards are for one label, and after names", []*networkingv1.Ingress{newIngress("evil/a", 0, nil, "*.example / wild"), newIngress("a/b", 9, nil, "a.example /x own")},
			map[string]string{"b.example /": "wild", "a.example /x": "own", "a.example /y": "404", "b.c.example /": "404", "example /": "404"}},
		{"the oldest has a path", []*networkingv1.Ingress{newIngress("evil/a", 9, nil, "a.example / evil", "a.example /new new"), newIngress("a/b", 0, nil, "a.example / old")},
			map[string]string{"a.example /": "old", "a.example /new": "new"}},
		{"without host", []*networkingv1.Ingress{newIngress("a/a", 0, nil, "- /x any"), newIngress("a/b", 0, nil, "a.example /y own")},
			map[string]string{"b.example /x": "any", " /x": "any", "a.example /x": "404"}},
		{"default backends", []*networkingv1.Ingress{withDefault, hostDefault}, map[string]string{"a.example /x": "x", "a.example /y": "own", "b.example /": "fallback"}},
		{"expressions", []*networkingv1.Ingress{newIngress("a/a", 0, map[string]string{"use-regex": "true"},
			"a.example /api/v[0-9]+/x re", "a.example /exact exact Exact"), newIngress("a/b", 0, nil, "a.example /api prefix")},
			map[string]string{"a.example /api/v12/x": "re", "a.example /API/V1/X/more": "re", "a.example /api/v/x": "prefix", "a.example /API": "404", "a.example /exact": "exact"}},
		{"aliases yield to hosts", []*networkingv1.Ingress{newIngress("evil/a", 0, map[string]string{"server-alias": "b.example, c.example"}, "a.example / evil"), newIngress("a/b", 9, nil, "b.example / own")},
			map[string]string{"a.example /": "evil", "b.example /": "own", "c.example /": "evil"}},
		{"www", []*networkingv1.Ingress{newIngress("a/a", 0, map[string]string{"from-to-www-redirect": "true"}, "a.example / a"), newIngress("a/b", 0, map[string]string{"from-to-www-redirect": "true"}, "www.b.example / b")},
			map[string]string{"www.a.example /": "to a.example", "a.example /": "a", "b.example /": "to www.b.example"}},
	} {
		table, _ := tableOf(test.ingresses...)
		for question, want := range test.want {
			host, path, _ := strings.Cut(question, " ")
			if got := served(table, host, path); got != want {
				t.Errorf("%s: %s: got %s, want %s", test.name, question, got, want)
			}
		}
	}
}

// TestFindIsTheLongestPrefix compares with a search through all.
func TestFindIsTheLongestPrefix(t *testing.T) {
	var locations []*Location
	for i := range 200 {
		path := "/"
		for n := i; n > 0; n /= 3 {
			path += string(rune('a'+n%3)) + []string{"", "/"}[n%2]
		}
		locations = append(locations, &Location{Path: path, kind: pathKind(i % 2)})
	}
	slices.SortFunc(locations, func(a, b *Location) int { return strings.Compare(fmt.Sprint(slotOf(a)), fmt.Sprint(slotOf(b))) })
	locations = slices.CompactFunc(locations, func(a, b *Location) bool { return slotOf(a) == slotOf(b) })
	list := newPrefixes(locations)
	for i := range 3000 {
		path := "/"
		for n := i; n > 0; n /= 4 {
			path += string("abc/"[n%4])
		}
		var want *Location
		for _, l := range locations {
			text := prefixText(l)
			fits := strings.HasPrefix(path, text) && (l.kind == stem || len(path) == len(text) || path[len(text)] == '/')
			if fits && (want == nil || len(text) > len(prefixText(want)) || len(text) == len(prefixText(want)) && l.kind > want.kind) {
				want = l
			}
		}
		if got := list.longest(path); got != want {
			t.Fatalf("%s: got %+v, want %+v", path, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for path, want := range map[string]string{
		"": "/", "/": "/", "/a/b": "/a/b", "/a//b/": "/a/b/", "//": "/", "/a/./b": "/a/b", "/a/../b": "/b", "/a/..": "/", "/a/.": "/a/", "/a/b/..": "/a/",
		"/..": "error", "/a/../../b": "error", "/a\x00": "error", "a": "error", "*": "error", "/.a": "/.a", "/...": "/...",
	} {
		got, ok := Clean(path)
		if !ok {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	for _, test := range []struct{ rule, target, path, want string }{
		{"a.example / s", "/", "/any/thing", "/"},
		{"a.example /guestbook s", "/", "/guestbook/style.css", "/"},
		{"a.example /x(/|$)(.*) s ImplementationSpecific", "/$2", "/x/a/b", "/a/b"},
		{"a.example /x(/|$)(.*) s ImplementationSpecific", "/$2", "/x", "/"},
		{"a.example /x/(.*) s", "/y?id=$1", "/x/7", "/y?id=7"},
		{"a.example /x/(.*) s", "$1", "/x/7", "7"},
	} {
		table, _ := tableOf(newIngress("a/a", 0, map[string]string{"rewrite-target": test.target}, test.rule))
		l, _ := table.Find("a.example", test.path)
		if l == nil {
			t.Errorf("%s: %s is not served", test.rule, test.path)
			continue
		}
		path, query, ok := l.Rewrite(test.path)
		if query != "" {
			path += "?" + query
		}
		if !ok || path != test.want {
			t.Errorf("%s to %s: %s: got %s, want %s", test.rule, test.target, test.path, path, test.want)
		}
	}
}

func TestCanariesAreOfTheNamespace(t *testing.T) {
	canary := map[string]string{"canary": "true", "canary-weight": "100"}
	table, b := tableOf(newIngress("a/main", 0, nil, "a.example / main"), newIngress("a/canary", 1, canary, "a.example / canary"),
		newIngress("evil/canary", 1, canary, "a.example / evil"), newIngress("a/alone", 1, canary, "a.example /other alone"))
	l, _ := table.Find("a.example", "/")
	if len(l.Canaries) != 1 || l.Canaries[0].Backend.Service.Name != "canary" || l.Backend.Service.Name != "main" {
		t.Errorf("got %+v", l)
	}
	if got := served(table, "a.example", "/other"); got != "main" {
		t.Errorf("a canary without a main Ingress: got %s", got)
	}
	for name, want := range map[string]string{"evil/canary": "must be in its namespace", "a/alone": "no other Ingress has the path /other", "a/canary": ""} {
		namespace, name, _ := strings.Cut(name, "/")
		if got := strings.Join(b.Problems(Key{Namespace: namespace, Name: name}), "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s/%s: got %q, want %q", namespace, name, got, want)
		}
	}
}

func TestProblemsAreTold(t *testing.T) {
	resource := newIngress("a/a", 0, nil, "a.example / s")
	resource.Spec.Rules[0].HTTP.Paths[0].Backend = networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}}
	secured := newIngress("a/a", 0, nil, "a.example / s")
	secured.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"a.example"}, SecretName: "missing"}}
	for _, test := range []struct {
		name    string
		ingress *networkingv1.Ingress
		problem string
		closed  bool
	}{
		{"snippet", newIngress("a/a", 0, map[string]string{"configuration-snippet": "deny all;"}, "a.example / s"), "nginx.ingress.kubernetes.io/configuration-snippet is refused", true},
		{"unknown", newIngress("a/a", 0, map[string]string{"no-such": "x"}, "a.example / s"), "nginx.ingress.kubernetes.io/no-such is not known", false},
		{"external auth", newIngress("a/a", 0, map[string]string{"auth-url": "http://x"}, "a.example / s"), "auth-url is refused", true},
		{"bad range", newIngress("a/a", 0, map[string]string{"whitelist-source-range": "10.0.0.0/33"}, "a.example / s"), `"10.0.0.0/33" is no range`, true},
		{"bad number", newIngress("a/a", 0, map[string]string{"proxy-read-timeout": "-1"}, "a.example / s"), "no number of seconds", false},
		{"no users", newIngress("a/a", 0, map[string]string{"auth-type": "basic", "auth-secret": "users"}, "a.example / s"), `there is no Secret "users"`, true},
		{"users of others", newIngress("a/a", 0, map[string]string{"auth-type": "basic", "auth-secret": "kube-system/users"}, "a.example / s"), "Secrets of other namespaces", true},
		{"digest", newIngress("a/a", 0, map[string]string{"auth-type": "digest"}, "a.example / s"), `"digest" is not served`, true},
		{"resource", resource, "is a resource; only backends that are Services", false},
		{"no certificate", secured, `of Secret "missing" is not shown, the default one is: there is no such Secret`, false},
		{"no expression of RE2", newIngress("a/a", 0, map[string]string{"use-regex": "true"}, "a.example /(?!x) s"), "no regular expression", false},
		{"too long an expression", newIngress("a/a", 0, map[string]string{"use-regex": "true"}, "a.example /"+strings.Repeat("x", 1100)+" s"), "is longer than 1024", false},
		{"variable", newIngress("a/a", 0, map[string]string{"rewrite-target": "/$host"}, "a.example / s"), "a variable besides", false},
	} {
		table, b := tableOf(test.ingress)
		if got := b.Problems(Key{Namespace: "a", Name: "a"}); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), test.problem) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.problem)
		}
		l, _ := table.Find("a.example", "/")
		if closed := l != nil && l.Settings.Closed != ""; closed != test.closed {
			t.Errorf("%s: closed %v, want %v", test.name, closed, test.closed)
		}
	}
}

// TestUsers checks hashes that htpasswd and openssl made.
func TestUsers(t *testing.T) {
	users, err := usersOf(&corev1.Secret{Data: map[string][]byte{"auth": []byte("# users\n" +
		"apr:$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/\n" + // htpasswd's manual: myPassword
		"sha:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=\n" + // myPassword
		"plain:{PLAIN}myPassword\n" +
		"bcrypt:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n")}}, "auth-file") // myPassword
	if err != nil {
		t.Fatal(err)
	}
	for name := range users {
		if !users.Check(name, "myPassword") || users.Check(name, "mypassword") || users.Check(name, "") {
			t.Errorf("%s: wrong", name)
		}
	}
	if len(users) != 4 || users.Check("nobody", "") {
		t.Errorf("got %v", users)
	}
}

func TestTableIsMadeAnewWhereItChanged(t *testing.T) {
	b := NewBuilder(func(Key) *corev1.Secret { return nil })
	b.Set(newIngress("a/a", 0, nil, "a.example / a", "b.example / b"))
	first, _ := b.Table()
	b.Set(newIngress("a/c", 1, nil, "b.example / younger", "c.example / c"))
	second, touched := b.Table()
	if first.hosts.get("a.example") != second.hosts.get("a.example") || served(first, "c.example", "/") != "404" || served(second, "c.example", "/") != "c" {
		t.Error("a table that was made has changed, or one anew where nothing did")
	}
	if !touched[Key{Namespace: "a", Name: "c"}] || len(b.Problems(Key{Namespace: "a", Name: "c"})) != 1 {
		t.Errorf("got %v, %q", touched, b.Problems(Key{Namespace: "a", Name: "c"}))
	}
	b.Delete(Key{Namespace: "a", Name: "a"})
	third, _ := b.Table()
	if served(third, "b.example", "/") != "younger" || served(third, "a.example", "/") != "404" || len(b.Problems(Key{Namespace: "a", Name: "c"})) != 0 {
		t.Error("what the older Ingress had is not the younger's")
	}
	pools := b.PoolsOf(Key{Namespace: "a", Name: "younger"})
	if len(pools) != 1 {
		t.Fatalf("%d pools", len(pools))
	}
	// A pool is the same as long as somebody uses it, and gone afterwards.
	b.Set(newIngress("a/c", 1, nil, "b.example /new younger", "c.example / c"))
	b.Table()
	if now := b.PoolsOf(pools[0].Service); len(now) != 1 || now[0] != pools[0] {
		t.Errorf("the pool was made anew: %v", now)
	}
	b.Delete(Key{Namespace: "a", Name: "c"})
	b.Table()
	if now := b.PoolsOf(pools[0].Service); len(now) != 0 || len(b.pools) != 0 {
		t.Errorf("pools that nobody uses: %v", b.pools)
	}
}

func TestMissing(t *testing.T) {
	key := Key{Namespace: "a", Name: "s"}
	service := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}}
	for _, test := range []struct {
		backend Backend
		service *corev1.Service
		want    string
	}{
		{Backend{Service: key, Port: 80}, nil, "there is no Service a/s"},
		{Backend{Service: key, Port: 80}, service, ""},
		{Backend{Service: key, PortName: "web"}, service, ""},
		{Backend{Service: key, Port: 81}, service, "Service a/s has no port 81"},
		{Backend{Service: key, PortName: "other"}, service, "Service a/s has no port other"},
		{Backend{Service: key, Port: 81}, &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}, ""},
	} {
		if got := Missing(test.backend, test.service); got != test.want {
			t.Errorf("%+v: got %q, want %q", test.backend, got, test.want)
		}
	}
	_, b := tableOf(newIngress("a/x", 0, nil, "x.example / s"), newIngress("a/y", 0, nil, "y.example / other"))
	if got := b.UsersOf(Backend{Service: key, Port: 80}); !slices.Equal(got, []Key{{Namespace: "a", Name: "x"}}) {
		t.Errorf("it is used by %v", got)
	}
}

// BenchmarkChange changes one of 10,000 Ingresses, each with a host of its own, or all with the same one.
func BenchmarkChange(b *testing.B) {
	for _, many := range []bool{true, false} {
		b.Run(map[bool]string{true: "hosts", false: "one host"}[many], func(b *testing.B) {
			ingress := func(i, change int) *networkingv1.Ingress {
				host := "one"
				if many {
					host = fmt.Sprint("h", i)
				}
				return newIngress(fmt.Sprintf("a/i%d", i), i, nil, fmt.Sprintf("%s.example /%d/%d s%d", host, i, change, i))
			}
			builder := NewBuilder(func(Key) *corev1.Secret { return nil })
			for i := range 10000 {
				builder.Set(ingress(i, 0))
			}
			begun := time.Now()
			builder.Table()
			b.ReportMetric(time.Since(begun).Seconds()*1000, "ms/all")
			for i := 0; b.Loop(); i++ {
				builder.Set(ingress(77, i))
				builder.Table()
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	var rules []string
	for i := range 10000 {
		rules = append(rules, fmt.Sprintf("a.example /p%d/x s", i))
	}
	table, _ := tableOf(newIngress("a/a", 0, nil, rules...))
	for b.Loop() {
		if l, _ := table.Find("a.example", "/p777/x/y/z"); l == nil {
			b.Fatal("not found")
		}
	}
}

// FuzzIngress has a stranger's annotations, paths and requests do no harm: nothing panics, and what is rewritten stays
// below the root.
func FuzzIngress(f *testing.F) {
	for _, a := range Annotations {
		f.Add(a.Name, "true", "/a(.*)", "/a/../b")
	}
	f.Add("rewrite-target", "/x/$1$9", "/a(.*)", "/a/%2e%2e/..")
	f.Fuzz(func(t *testing.T, name, value, rulePath, path string) {
		if strings.ContainsAny(rulePath, " \t\n\v\f\r\u0085\u00a0") || rulePath == "" || len(strings.Fields("h "+rulePath+" s")) != 3 {
			t.Skip()
		}
		table, _ := tableOf(newIngress("a/a", 0, map[string]string{name: value}, "a.example "+rulePath+" s"))
		clean, ok := Clean(path)
		if !ok {
			return
		}
		if again, ok := Clean(clean); !ok || again != clean || strings.Contains(clean+"/", "/../") {
			t.Fatalf("%q: %q is not clean", path, clean)
		}
		l, _ := table.Find("a.example", clean)
		if l == nil {
			return
		}
		if l.Settings.Closed == "" && value != "" && byName[name].Protects() && byName[name].Refused() {
			t.Fatalf("%s is not obeyed and the Ingress is open", name)
		}
		l.Rewrite(clean)
	})
}
