package aggregate_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"
)

const mirrorService = "v1.mirror.example.com"

// TestConditions: an APIService says why its server cannot be reached, in the
// words of kube-apiserver, as soon as that changes.
func TestConditions(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	ctx := t.Context()
	expect := func(reason, message string) {
		t.Helper()
		is := c.await(t, mirrorService, reason)
		status := apiregistrationv1.ConditionFalse
		if reason == "Passed" {
			status = apiregistrationv1.ConditionTrue
		}
		if is.Message != message || is.Status != status || is.LastTransitionTime.IsZero() {
			t.Errorf("the condition is %+v, want %q", is, message)
		}
	}
	expect("Passed", "all checks passed")
	slices, all := c.client.DiscoveryV1().EndpointSlices("default"), c.client.CoreV1().Services("default")
	patch := func(text string) {
		t.Helper()
		if _, err := slices.Patch(ctx, "mirror-1", types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch(`{"endpoints":[{"addresses":["192.0.2.10"],"conditions":{"ready":false}}]}`)
	expect("MissingEndpoints", `endpointslices for service/mirror in "default" have no addresses with port name ""`)
	if code, text := c.do(t, http.MethodGet, mirrors+"/x", "", nil); code != http.StatusServiceUnavailable || text != "service unavailable\n" {
		t.Errorf("got %d %q", code, text)
	}
	patch(`{"endpoints":[{"addresses":["192.0.2.11"]}]}`)
	expect("FailedDiscoveryCheck", "failing or missing response from https://192.0.2.11:9443/apis/mirror.example.com/v1: "+
		`Get "https://192.0.2.11:9443/apis/mirror.example.com/v1": dial tcp 192.0.2.11:9443: connect: connection refused`)
	if err := slices.Delete(ctx, "mirror-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("EndpointsNotFound", `cannot find endpointslices for service/mirror in "default"`)
	if _, err := all.Patch(ctx, "mirror", types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/ports/0/port","value":444}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("ServicePortError", `service/mirror in "default" is not listening on port 443`)
	if err := all.Delete(ctx, "mirror", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("ServiceNotFound", `service/mirror in "default" is not present`)
	c.service(t)
	expect("Passed", "all checks passed")
	e.say(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	patch(`{"metadata":{"annotations":{"asked":"again"}}}`)
	expect("FailedDiscoveryCheck", "failing or missing response from https://192.0.2.10:9443/apis/mirror.example.com/v1: "+
		"bad status from https://192.0.2.10:9443/apis/mirror.example.com/v1: 403")
	for _, want := range []string{`aggregator_unavailable_apiservice{name="v1.mirror.example.com"} 1`, `aggregator_unavailable_apiservice{name="v1.apps"} 0`,
		`aggregator_unavailable_apiservice_total{name="v1.mirror.example.com",reason="MissingEndpoints"} 1`} {
		c.seen(t, "/metrics", nil, func(_ int, body string) bool { return strings.Contains(body, want) })
	}
	e.say(e.describeMirrors)
	expect("Passed", "all checks passed") // nothing changed but the server, which is asked again
}

// TestExternalName: a Service that is only a name leads there.
func TestExternalName(t *testing.T) {
	c := start(t)
	_, err := c.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "mirror"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.register(t, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: mirrorService}, Spec: apiregistrationv1.APIServiceSpec{
		Group: "mirror.example.com", Version: "v1", GroupPriorityMinimum: 1, VersionPriority: 1, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "mirror"}}})
	got := c.await(t, mirrorService, "FailedDiscoveryCheck").Message
	if want := "dial tcp example.com:443: connect: connection refused"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestTrust: the server must have a certificate for its Service by the authority
// that the APIService names.
func TestTrust(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*apiregistrationv1.APIService)
		reason string
	}{
		"another authority": {func(o *apiregistrationv1.APIService) { o.Spec.CABundle = newAuthority(t).pem }, "FailedDiscoveryCheck"},
		"no authority":      {func(o *apiregistrationv1.APIService) { o.Spec.CABundle = nil }, "FailedDiscoveryCheck"},
		"no certificates":   {func(o *apiregistrationv1.APIService) { o.Spec.CABundle = []byte("none") }, "FailedDiscoveryCheck"},
		"whoever it is":     {func(o *apiregistrationv1.APIService) { o.Spec.CABundle, o.Spec.InsecureSkipTLSVerify = nil, true }, "Passed"},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			c.extend(t, test.change)
			is := c.await(t, mirrorService, test.reason)
			if code, text := c.do(t, http.MethodGet, mirrors+"/x", "", nil); (code == http.StatusOK) != (test.reason == "Passed") {
				t.Errorf("got %d %s; the condition is %+v", code, text, is)
			}
		})
	}
}

func (e *extension) describeMirrors(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, described)
}

var all = http.Header{"Accept": {"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}}

// group is what the aggregated form says of the group of the tests, and the
// names of all groups.
func (c *cluster) group(t *testing.T) (string, []string) {
	t.Helper()
	var list apidiscovery.APIGroupDiscoveryList
	_, text := c.do(t, http.MethodGet, "/apis", "", all)
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	var found string
	var names []string
	for _, g := range list.Items {
		names = append(names, g.Name)
		if g.Name == "mirror.example.com" {
			b, err := json.Marshal(g.Versions)
			if err != nil {
				t.Fatal(err)
			}
			found = string(b)
		}
	}
	return found, names
}

// TestDiscovery: both forms tell of what an extension server serves, and that
// it is not known when it cannot be asked. kube-apiserver said the same.
func TestDiscovery(t *testing.T) {
	const (
		current = `[{"version":"v1","resources":[{"resource":"mirrors","responseKind":{"group":"","version":"","kind":"Mirror"},"scope":"Namespaced",` +
			`"singularResource":"mirror","verbs":["get","list"],"subresources":[{"subresource":"status","responseKind":{"group":"","version":"","kind":"Mirror"},"verbs":["get"]}]}],"freshness":"Current"}]`
		stale = `[{"version":"v1","freshness":"Stale"}]`
		plain = `{"kind":"APIGroup","apiVersion":"v1","name":"mirror.example.com","versions":[{"groupVersion":"mirror.example.com/v1","version":"v1"}],` +
			`"preferredVersion":{"groupVersion":"mirror.example.com/v1","version":"v1"}}` + "\n"
	)
	c := start(t)
	e := c.extend(t, nil)
	becomes := func(want string) {
		t.Helper()
		c.seen(t, "/apis", all, func(int, string) bool { got, _ := c.group(t); return got == want })
	}
	becomes(current)
	_, names := c.group(t)
	names = slices.DeleteFunc(names, func(name string) bool { return name == "metrics.k8s.io" }) // has no APIService, and comes last
	if i := slices.Index(names, "mirror.example.com"); i != len(names)-1 || names[i-1] != "flowcontrol.apiserver.k8s.io" {
		t.Errorf("groups in order of priority: %q", names)
	}
	for path, want := range map[string]string{"/apis/mirror.example.com": plain, mirrorsVersion: described, "/apis/mirror.example.com/v2": "404 page not found\n"} {
		if _, text := c.do(t, http.MethodGet, path, "", nil); text != want {
			t.Errorf("%s: got %s, want %s", path, text, want)
		}
	}
	e.say(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apis" {
			w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList")
			io.WriteString(w, `{"items":[{"metadata":{"name":"mirror.example.com"},"versions":[{"version":"v1","resources":[{"resource":"glasses","scope":"Cluster","verbs":["get"]}]}]}]}`)
			return
		}
		e.describeMirrors(w, r)
	})
	c.change(t, `{"metadata":{"annotations":{"a":"b"}}}`) // is no reason to ask
	c.change(t, `{"spec":{"insecureSkipTLSVerify":true,"caBundle":null}}`)
	becomes(`[{"version":"v1","resources":[{"resource":"glasses","responseKind":{"group":"","version":"","kind":""},"scope":"Cluster","singularResource":"","verbs":["get"]}],"freshness":"Current"}]`)
	c.hosts.Delete(address + ":9443")
	e.CloseClientConnections()
	c.change(t, `{"spec":{"versionPriority":11}}`)
	if err := c.client.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "mirror-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(stale)
	if _, text := c.do(t, http.MethodGet, "/apis/mirror.example.com", "", nil); text != plain {
		t.Errorf("the group is no longer listed: %s", text)
	}
	if code, text := c.do(t, http.MethodDelete, services+"/"+mirrorService, "", nil); code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	becomes("")
	if code, _ := c.do(t, http.MethodGet, mirrorsVersion, "", nil); code != http.StatusNotFound {
		t.Errorf("got %d, want 404", code)
	}
}

const mirrorsVersion = "/apis/mirror.example.com/v1"

func (c *cluster) change(t *testing.T, patch string) {
	t.Helper()
	if code, text := c.do(t, http.MethodPatch, services+"/"+mirrorService, patch, http.Header{"Content-Type": {"application/merge-patch+json"}}); code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
}

// TestBrokenServers: whatever an extension server does when it is asked what it
// serves, the others are described as before, and it is stale.
func TestBrokenServers(t *testing.T) {
	c := start(t)
	_, before := c.group(t)
	e := c.extend(t, func(o *apiregistrationv1.APIService) { o.Spec.GroupPriorityMinimum = 20 })
	for _, test := range []struct {
		name string
		say  http.HandlerFunc
	}{
		{"garbage", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }},
		{"garbage that says it is a document", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
			io.WriteString(w, `{"items":{}}`)
		}},
		{"too much", func(w http.ResponseWriter, _ *http.Request) {
			for range 10 {
				w.Write([]byte(`{"resources":[` + strings.Repeat(" ", 1<<20)))
			}
		}},
		{"no end", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
		{"nothing", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"names that are none", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"resources":[{"name":"/"}]}`) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			e.say(test.say)
			asked := e.asked.Load()
			c.change(t, fmt.Sprintf(`{"spec":{"groupPriorityMinimum":%d,"insecureSkipTLSVerify":true,"caBundle":null}}`, 20+asked))
			if err := c.client.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "mirror-1", metav1.DeleteOptions{}); err == nil {
				c.await(t, mirrorService, "EndpointsNotFound")
			}
			if _, err := c.client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice(), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(30 * time.Second); e.asked.Load() < asked+1; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it is not asked")
				}
			}
			got, names := c.group(t)
			if diff := cmp.Diff(append(slices.Clone(before), "mirror.example.com"), names); diff != "" {
				t.Errorf("groups: -want +got\n%s", diff)
			}
			if want := `[{"version":"v1","freshness":"Stale"}]`; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if code, _ := c.do(t, http.MethodGet, "/apis/apps/v1", "", nil); code != http.StatusOK {
				t.Errorf("another group: %d", code)
			}
		})
	}
}

// TestLocal: what this server serves has APIServices, those of built-in kinds
// as kube-apiserver was seen to have them.
func TestLocal(t *testing.T) {
	c := start(t)
	read := func() map[string]apiregistrationv1.APIService {
		var list apiregistrationv1.APIServiceList
		_, text := c.do(t, http.MethodGet, services, "", nil)
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			t.Fatal(err)
		}
		all := make(map[string]apiregistrationv1.APIService)
		for _, o := range list.Items {
			all[o.Name] = o
		}
		return all
	}
	for name, want := range map[string][2]int32{"v1.": {18000, 1}, "v1.apps": {17800, 15}, "v2.autoscaling": {17500, 30}, "v1.apiextensions.k8s.io": {16700, 15}} {
		o := read()[name]
		got := [2]int32{o.Spec.GroupPriorityMinimum, o.Spec.VersionPriority}
		if got != want || o.Labels["kube-aggregator.kubernetes.io/automanaged"] != "onstart" || o.Spec.Service != nil || len(o.Status.Conditions) != 1 || o.Status.Conditions[0].Reason != "Local" {
			t.Errorf("%s: got %+v", name, o)
		}
	}
	if o, ok := read()["v1.apiregistration.k8s.io"]; ok {
		t.Errorf("there is %+v: how requests are delegated must not be", o)
	}

	const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	crd := `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.example.com"},"spec":{"group":"example.com","scope":"Cluster",` +
		`"names":{"plural":"things","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}`
	if code, text := c.do(t, http.MethodPost, definitions, crd, nil); code != http.StatusCreated {
		t.Fatalf("%d %s", code, text)
	}
	managed := func(name string) func() bool {
		return func() bool {
			o, ok := read()[name]
			return ok && o.Labels["kube-aggregator.kubernetes.io/automanaged"] == "true" && o.Spec.GroupPriorityMinimum == 1000 && o.Spec.VersionPriority == 100
		}
	}
	becomes := func(what string, f func() bool) {
		t.Helper()
		c.seen(t, services, nil, func(int, string) bool { return f() })
	}
	becomes("registered", managed("v1.example.com"))
	merge := http.Header{"Content-Type": {"application/merge-patch+json"}}
	if code, text := c.do(t, http.MethodPatch, services+"/v1.example.com", `{"spec":{"versionPriority":7}}`, merge); code != http.StatusOK {
		t.Fatalf("%d %s", code, text)
	}
	becomes("put back", managed("v1.example.com"))
	c.do(t, http.MethodDelete, services+"/v1.example.com", "", nil)
	becomes("made anew", managed("v1.example.com"))
	c.do(t, http.MethodDelete, definitions+"/things.example.com", "", nil)
	becomes("gone", func() bool { _, ok := read()["v1.example.com"]; return !ok })
}

// TestDelegationIsNotDelegated: an APIService for its own group changes nothing.
func TestDelegationIsNotDelegated(t *testing.T) {
	c := start(t)
	c.extend(t, nil)
	c.await(t, mirrorService, "Passed")
	c.register(t, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.apiregistration.k8s.io"}, Spec: apiregistrationv1.APIServiceSpec{
		Group: "apiregistration.k8s.io", Version: "v1", GroupPriorityMinimum: 1, VersionPriority: 1, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "mirror", Port: ptr.To[int32](443)}}})
	if code, text := c.do(t, http.MethodDelete, services+"/v1.apiregistration.k8s.io", "", nil); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
}

// TestTrustIsRenewed: what is known of a server stays known while it is asked
// anew because its certificate is to be judged in another way.
func TestTrustIsRenewed(t *testing.T) {
	c := start(t)
	e := c.extend(t, nil)
	current := func() bool { got, _ := c.group(t); return strings.Contains(got, `"Current"`) }
	c.seen(t, "/apis", all, func(int, string) bool { return current() })
	asked := make(chan bool, 16)
	e.say(func(_ http.ResponseWriter, r *http.Request) {
		asked <- true
		<-r.Context().Done()
	})
	c.change(t, `{"spec":{"insecureSkipTLSVerify":true,"caBundle":null}}`)
	<-asked
	if !current() {
		t.Error("the server is stale before it was asked")
	}
}
