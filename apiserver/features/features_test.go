package features_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/features"
)

var users = map[string]*user.DefaultInfo{"admin": {Name: "admin", Groups: []string{"system:masters"}}, "alice": {Name: "alice"}}

// refused are flags with which kube-apiserver does not start.
var refused = []string{
	"--feature-gates=Nope=true", "--feature-gates=WatchList", "--feature-gates=WatchList=x", "--feature-gates=foo:A=true", "--feature-gates=WatchList=true,kube:WatchList=true",
	"--feature-gates=UserNamespacesSupport=false", "--feature-gates=kube:VolumeAttributesClass=false", "--feature-gates=GitRepoVolumeDriver=true,WatchList=false",
	"--runtime-config=api/all=false", "--runtime-config=foo/v1=true", "--runtime-config=foo/v1,bar/v2=false", "--runtime-config=apps=true",
	"--runtime-config=apps/v9=true", "--runtime-config=apps/v1=maybe", "--runtime-config=apps/v1/Deployments=false", "--runtime-config=api/beta=yes",
	"--runtime-config=api/all=false,apps/v1=true", "--runtime-config=flowcontrol.apiserver.k8s.io/v1=false", "--runtime-config=a/b/c/d=true",
}

// chosen are flags by which a server serves less than all.
var chosen = []string{
	"--feature-gates=WatchList=false,ConstrainedImpersonation=false", "--feature-gates=ComponentStatusz=false,ComponentFlagz=false",
	"--runtime-config=apps/v1=false,batch/v1/cronjobs=false,autoscaling/v1=false,events.k8s.io/v1=false",
}

func parse(t *testing.T, to *apiserver.Options, flags ...string) error {
	t.Helper()
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	to.Features.AddFlags(set)
	to.Debug.AddFlags(set)
	return set.Parse(flags)
}

// open reads flags as a server does that starts.
func open(t *testing.T, flags ...string) (features.Gates, error) {
	var o apiserver.Options
	if err := parse(t, &o, flags...); err != nil {
		return features.Gates{}, err
	}
	gates, err := o.Features.Gates()
	if err != nil {
		return gates, err
	}
	_, err = o.Features.Hides(builtin.Resources(builtin.Deps{}))
	return gates, err
}

func TestRefused(t *testing.T) {
	var said map[string]string
	load(t, "testdata/refusals.json", &said)
	for _, flag := range refused {
		if _, err := open(t, flag); err == nil || err.Error() != said[flag] {
			t.Errorf("%s: %v, want %s", flag, err, said[flag])
		}
	}
}

// What Kubernetes would do and Skiff does not is refused, and not passed over.
func TestWhatIsNotServed(t *testing.T) {
	const gates, beta = "feature gates that Skiff does not act on cannot have another value than what it does: ", "beta and alpha versions of APIs are not served by Skiff: api/beta and api/alpha cannot be true, nor api/all without them"
	for flag, want := range map[string]string{
		"--feature-gates=OpenAPIEnums=false":                   gates + "OpenAPIEnums=false",
		"--feature-gates=PodsAPI=true,KMSv1=true":              gates + "KMSv1=true, PodsAPI=true",
		"--feature-gates=ContainerCheckpoint=true":             gates + "ContainerCheckpoint=true",
		"--feature-gates=AllAlpha=true":                        " and 43 more",
		"--runtime-config=api/beta=true":                       beta,
		"--runtime-config=api/all=true":                        beta,
		"--runtime-config=api/all=true,api/beta=false":         beta,
		"--runtime-config=resource.k8s.io/v1beta1=true":        "resource.k8s.io/v1beta1 is not served by Skiff",
		"--runtime-config=resource.k8s.io/v1beta2/slices=true": "resource.k8s.io/v1beta2 is not served by Skiff",

		"--feature-gates=OpenAPIEnums=true,PodsAPI=false,ContainerCheckpoint=false,AllAlpha=false": "",
		"--runtime-config=api/all=true,api/beta=false,api/alpha=false":                             "",
		"--runtime-config=resource.k8s.io/v1beta1=false,api/beta=false,api/legacy=true,v1=true":    "",
	} {
		switch _, err := open(t, flag); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", flag, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", flag, err, want)
		}
	}
}

// answer is what a server says to a request.
type answer struct {
	Code       int
	Type, Text string
}

// asked are requests of which is to be seen what a server with the flags of chosen does not serve.
var asked = []struct{ as, path string }{
	{"admin", "/apis/apps"}, {"admin", "/apis/apps/v1"}, {"admin", "/apis/apps/v1/deployments"}, {"admin", "/apis/apps/v1/namespaces/default/deployments/a/scale"},
	{"admin", "/apis/batch/v1"}, {"admin", "/apis/batch/v1/cronjobs"}, {"admin", "/apis/batch/v1/namespaces/default/cronjobs/a/status"},
	{"admin", "/apis/autoscaling"}, {"admin", "/apis/autoscaling/v1"}, {"admin", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"},
	{"admin", "/apis/events.k8s.io/v1/events"}, {"admin", "/openapi/v3/apis/apps/v1"}, {"admin", "/flagz"}, {"admin", "/statusz"},
	{"admin", "/apis/apiregistration.k8s.io/v1/apiservices/v1.apps"},
	{"admin", "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"},
	{"admin", "/api/v1/pods?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"}, {"admin", "/api/v1/pods?sendInitialEvents=true"},
	{"alice", "/api/v1/pods"},
}

const rights = `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"constrained"},"rules":[
 {"apiGroups":["authentication.k8s.io"],"resources":["users"],"verbs":["impersonate:user-info"]},{"apiGroups":[""],"resources":["pods"],"verbs":["impersonate-on:user-info:list"]}]}`

const binding = `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"constrained"},
 "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"constrained"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"alice"}]}`

// ask puts all of asked to a server. alice asks as bob, by a right that a gate is about.
func ask(t *testing.T, client *http.Client, base string) map[string]answer {
	for path, body := range map[string]string{"clusterroles": rights, "clusterrolebindings": binding} {
		if got := do(t, client, http.MethodPost, base+"/apis/rbac.authorization.k8s.io/v1/"+path, "admin", body); got.Code != http.StatusCreated {
			t.Fatal(got)
		}
	}
	all := make(map[string]answer)
	for _, a := range asked {
		all[a.as+" "+a.path] = do(t, client, http.MethodGet, base+a.path, a.as, "")
	}
	return all
}

func do(t *testing.T, client *http.Client, method, url, as, body string) answer {
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+as)
	r.Header.Set("Content-Type", "application/json")
	if as == "alice" {
		r.Header.Set("Impersonate-User", "bob")
	}
	got, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{got.StatusCode, got.Header.Get("Content-Type"), compact(text)}
}

// compact is JSON without spaces, or a text as it is.
func compact(text []byte) string {
	var v any
	if json.Unmarshal(text, &v) != nil {
		return string(text)
	}
	short, _ := json.Marshal(v) // it has been JSON
	return string(short)
}

func load(t *testing.T, name string, to any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatal(err)
	}
}

// serve starts a server with flags.
func serve(t *testing.T, flags ...string) *apiserver.Server {
	t.Helper()
	return apiservertest.Start(t, func(o *apiserver.Options) {
		if err := parse(t, o, flags...); err != nil {
			t.Fatal(err)
		}
		o.StaticTokens = make(map[string]user.Info)
		for token, u := range users {
			o.StaticTokens[token] = u
		}
	})
}

// TestAnswers compares what a server with the flags of chosen says with what kube-apiserver said.
func TestAnswers(t *testing.T) {
	var want map[string]answer
	load(t, "testdata/answers.json", &want)
	server := httptest.NewServer(serve(t, chosen...).Handler())
	defer server.Close()
	for request, got := range ask(t, server.Client(), server.URL) {
		if diff := cmp.Diff(want[request], got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", request, diff)
		}
	}
	metrics := do(t, server.Client(), http.MethodGet, server.URL+"/metrics", "admin", "").Text
	for _, line := range []string{`{name="WatchList",stage="BETA"} 0`, `{name="PodTopologyLabelsAdmission",stage="BETA"} 1`, `{name="VolumeAttributesClass",stage=""} 1`, `{name="ContainerCheckpoint",stage="BETA"} 0`} {
		if !strings.Contains(metrics, "kubernetes_feature_enabled"+line) {
			t.Errorf("the metrics do not have %s", line)
		}
	}
}

// What no request finds is there for the server itself: roles decide, and objects stay.
func TestHiddenIsThere(t *testing.T) {
	s := serve(t, "--runtime-config=rbac.authorization.k8s.io/v1=false")
	c := kubernetes.NewForConfigOrDie(apiservertest.Config(s, "scheduler", "system:anything"))
	if _, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("somebody without rights lists pods")
	}
	c = kubernetes.NewForConfigOrDie(apiservertest.Config(s, "system:kube-scheduler", "system:anything"))
	if _, err := c.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the scheduler: %v", err)
	}
}

// TestGatesOfPlugins sees what two plugins of admission do with their gates on and off.
func TestGatesOfPlugins(t *testing.T) {
	for _, on := range []bool{true, false} {
		var flags []string
		if !on {
			flags = []string{"--feature-gates=PodTopologyLabelsAdmission=false,MutatingAdmissionPolicy=false"}
		}
		c := kubernetes.NewForConfigOrDie(apiservertest.Config(serve(t, flags...), "admin"))
		pod := boundPod(t, c)
		if got := pod.Labels["topology.kubernetes.io/zone"] == "z"; got != on {
			t.Errorf("gates on: %t; the pod has the zone of its node: %t", on, got)
		}
		if got := pod.Labels["policy"] == "mutates"; got != on {
			t.Errorf("gates on: %t; the policy changed the pod: %t", on, got)
		}
	}
}

// boundPod makes a node, a policy about pods, and a pod on the node.
func boundPod(t *testing.T, c kubernetes.Interface) *corev1.Pod {
	t.Helper()
	ctx, create := t.Context(), metav1.CreateOptions{}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"topology.kubernetes.io/zone": "z"}}}, create))
	must(c.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, policy(), create))
	must(c.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"},
	}, create))
	must(c.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, create))
	must(c.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, create))
	must(nil, c.CoreV1().Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, create))
	pod, err := c.CoreV1().Pods("default").Get(context.WithoutCancel(ctx), "a", metav1.GetOptions{})
	must(pod, err)
	return pod
}

func policy() *admissionregistrationv1.MutatingAdmissionPolicy {
	fail := admissionregistrationv1.Fail
	return &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
		FailurePolicy: &fail, ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
			RuleWithOperations: admissionregistrationv1.RuleWithOperations{Operations: []admissionregistrationv1.OperationType{"CREATE"},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}},
		}}},
		Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration,
			ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: `Object{metadata: Object.metadata{labels: {"policy": "mutates"}}}`}}},
	}}
}
