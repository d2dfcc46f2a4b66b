package admission_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// wrong is a configuration that a server does not start with.
type wrong struct{ Name, Enable, File string }

func wrongs(t *testing.T, dir string) (all []wrong) {
	load(t, "testdata/configurations.yaml", &all)
	save(t, dir+"/kubeconfig", kubeconfig("http://127.0.0.1:1"))
	for i := range all {
		if all[i].File != "" {
			path := filepath.Join(dir, fmt.Sprint(i))
			save(t, path, strings.ReplaceAll(all[i].File, "$DIR", dir))
			all[i].File = path
		}
	}
	return all
}

// said is a message without what differs from one run to the next.
func said(message, dir string) string {
	message = regexp.MustCompile(` in scheme \\?"[^"]*"`).ReplaceAllString(message, "")
	message = regexp.MustCompile(`(got|type:) \*\w+\.`).ReplaceAllString(message, "$1 *") // the package of a type
	return strings.ReplaceAll(message, dir, "DIR")
}

// TestWrongConfigurations: configurations are refused in the words of kube-apiserver (wrong.json).
func TestWrongConfigurations(t *testing.T) {
	var want map[string]string
	load(t, "testdata/wrong.json", &want)
	dir := t.TempDir()
	for _, w := range wrongs(t, dir) {
		_, err := admission.Standard(admission.Config{Choice: admission.Choice{Enable: strings.FieldsFunc(w.Enable, func(r rune) bool { return r == ',' }), File: w.File}})
		got := fmt.Sprint(err)
		if got = said(got, dir); got != said(want[w.Name], dir) {
			t.Errorf("%s: got\n%s\nwant\n%s", w.Name, got, want[w.Name])
		}
	}
}

var enabled = []string{"AlwaysAdmit", "EventRateLimit", "ExtendedResourceToleration", "ImagePolicyWebhook", "LimitPodHardAntiAffinityTopology",
	"NamespaceAutoProvision", "NamespaceExists", "PodNodeSelector", "PodTolerationRestriction"}

// disabled is what would keep pods from being made without controllers.
const disabled = "ServiceAccount"

// configuration is that of all plugins that have one. Images are asked about at a server.
func configuration(t *testing.T, server string) string {
	dir := t.TempDir()
	save(t, dir+"/kubeconfig", kubeconfig(server))
	save(t, dir+"/images", "{imagePolicy: {kubeConfigFile: "+dir+"/kubeconfig, allowTTL: 1800, denyTTL: 1800, retryBackoff: 1}}")
	save(t, dir+"/file", `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- {name: ImagePolicyWebhook, path: images}
- name: PodNodeSelector
  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: "zone=west", listed: "zone=west,disk=ssd", plain: ""}}
- name: PodTolerationRestriction
  configuration:
    apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1
    kind: Configuration
    default: [{key: default, operator: Exists, effect: NoSchedule}]
    whitelist: [{key: default, operator: Exists}, {key: node.kubernetes.io/memory-pressure, operator: Exists}, {key: node.kubernetes.io/not-ready, operator: Exists},
      {key: node.kubernetes.io/unreachable, operator: Exists}]
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits: [{type: Namespace, qps: 1, burst: 5}, {type: User, qps: 1, burst: 5, cacheSize: 10}, {type: SourceAndObject, qps: 1, burst: 5}, {type: Server, qps: 1000, burst: 1000}]
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - {resource: pods, matchContains: [limits.ephemeral], matchScopes: [{scopeName: PriorityClass, operator: In, values: [urgent]}, {scopeName: Terminating, operator: Exists}]}
    - {resource: persistentvolumeclaims, matchContains: [gold.storageclass.storage.k8s.io/requests.storage, silver.storageclass]}
    - {resource: services, matchContains: [services.loadbalancers]}
    - {apiGroup: apps, resource: daemonsets, matchContains: [count/]}
    - {resource: secrets, matchScopes: [{scopeName: PriorityClass, operator: In, values: [vital]}]}
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}
    exemptions: {usernames: [exempt], runtimeClasses: [vm], namespaces: [free]}
`)
	return dir + "/file"
}

func kubeconfig(server string) string {
	return `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "` + server + `"}}]}`
}

var users = map[string]*user.DefaultInfo{
	"admin": {Name: "admin", Groups: []string{"system:masters"}}, "exempt": {Name: "exempt", Groups: []string{"system:masters"}},
}

// images answers about images by their names.
type images struct {
	mu    sync.Mutex
	asked []string
}

func (h *images) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.asked = append(h.asked, r.Method+" "+r.RequestURI+" "+strings.TrimSpace(string(body)))
	h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	says := func(status string) {
		fmt.Fprintf(w, `{"apiVersion":"imagepolicy.k8s.io/v1alpha1","kind":"ImageReview","status":%s}`, status)
	}
	has := func(image string) bool { return strings.Contains(string(body), `"image":"`+image+`"`) }
	switch {
	case has("bad"):
		says(`{"allowed":false,"reason":"the image is <bad>","auditAnnotations":{"k":"v"}}`)
	case has("silent"):
		says(`{}`)
	case has("garbage"):
		fmt.Fprint(w, "<html>")
	case has("code404"):
		http.NotFound(w, r)
	default:
		says(`{"allowed":true}`)
	}
}

func (h *images) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked
	h.asked = nil
	return asked
}

type request struct {
	As, Method, Path, Body string
	Repeat                 int
}

// recorded is what becomes of a request, and what was asked about its images.
type recorded struct {
	Request  string
	Code     int
	Warnings []string
	Answer   any
	Asked    []string
}

func ask(t *testing.T, client *http.Client, base string, h *images) (all []recorded) {
	var requests []request
	load(t, "testdata/requests.yaml", &requests)
	for _, r := range requests {
		if r.Method == "" {
			r.Method = http.MethodPost
		}
		if r.As == "" {
			r.As = "admin"
		}
		h.take()
		one := send(t, client, base, r)
		for range r.Repeat {
			if one.Code >= http.StatusBadRequest {
				break
			}
			one = send(t, client, base, r)
		}
		one.Asked = h.take()
		all = append(all, one)
	}
	return all
}

func send(t *testing.T, client *http.Client, base string, r request) recorded {
	send, err := http.NewRequestWithContext(t.Context(), r.Method, base+r.Path, strings.NewReader(r.Body))
	if err != nil {
		t.Fatal(err)
	}
	send.Header.Set("Authorization", "Bearer "+r.As)
	send.Header.Set("Accept", "application/json")
	send.Header.Set("Content-Type", "application/json")
	if r.Method == http.MethodPatch {
		send.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	}
	answer, err := client.Do(send)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	one := recorded{Request: strings.TrimSpace(r.As + " " + r.Method + " " + r.Path + " " + r.Body), Code: answer.StatusCode, Warnings: answer.Header.Values("Warning")}
	var body map[string]any
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		t.Fatalf("%s: %v", one.Request, err)
	}
	one.Answer = body
	if spec, ok := body["spec"].(map[string]any); ok && body["kind"] == "Pod" {
		one.Answer = map[string]any{"nodeSelector": spec["nodeSelector"], "tolerations": spec["tolerations"]}
	} else if body["kind"] != "Status" {
		one.Answer = body["kind"]
	}
	return one
}

// TestAnswers: the plugins decide, change and warn as those of kube-apiserver do (answers.json).
func TestAnswers(t *testing.T) {
	var want []recorded
	load(t, "testdata/answers.json", &want)
	h := &images{}
	hook := httptest.NewServer(h)
	t.Cleanup(hook.Close)
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Admission = admission.Choice{Enable: slices.Clone(enabled), Disable: []string{disabled}, File: configuration(t, hook.URL)}
		o.StaticTokens = make(map[string]user.Info)
		for token, u := range users {
			o.StaticTokens[token] = u
		}
	})
	front := httptest.NewServer(s.Handler())
	t.Cleanup(front.Close)
	got := ask(t, front.Client(), front.URL, h)
	if len(got) != len(want) {
		t.Fatalf("%d requests, %d are recorded: run make oracle", len(got), len(want))
	}
	for i := range got {
		if d := cmp.Diff(want[i], got[i]); d != "" {
			t.Errorf("%s (-kube-apiserver +skiff)\n%s", got[i].Request, d)
		}
	}
}

func load(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		t.Fatal(err)
	}
}

func save(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
