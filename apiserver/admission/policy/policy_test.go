package policy_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/admission/policy"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func start(t testing.TB) (*apiserver.Server, kubernetes.Interface) {
	t.Helper()
	s := apiservertest.Start(t, nil)
	return s, as(t, s, "admin")
}

func as(t testing.TB, s *apiserver.Server, name string, groups ...string) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(apiservertest.Config(s, name, groups...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// configMaps are match constraints; every operation on config maps.
func configMaps() *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
		RuleWithOperations: admissionregistrationv1.RuleWithOperations{Operations: []admissionregistrationv1.OperationType{"CREATE", "UPDATE"},
			Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}}}}
}

func validating(name string, expressions ...string) *admissionregistrationv1.ValidatingAdmissionPolicy {
	p := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.MatchConstraints = configMaps()
	for _, x := range expressions {
		p.Spec.Validations = append(p.Spec.Validations, admissionregistrationv1.Validation{Expression: x})
	}
	return p
}

func binding(name, policy string, actions ...admissionregistrationv1.ValidationAction) *admissionregistrationv1.ValidatingAdmissionPolicyBinding {
	if actions == nil {
		actions = []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}
	}
	return &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: policy, ValidationActions: actions}}
}

func must[T any](obj T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return obj
	}
}

// until waits for what a server does when it has answered.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func put(ctx context.Context, c kubernetes.Interface, name string) error {
	_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{DryRun: []string{"All"}})
	return err
}

// A policy, a binding and a param take effect with the answer to their write, and so does their removal.
func TestTakesEffectAtOnce(t *testing.T) {
	_, c := start(t)
	ctx, policies, bindings := t.Context(), c.AdmissionregistrationV1().ValidatingAdmissionPolicies(), c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	denied := func(when, want string) {
		t.Helper()
		err := put(ctx, c, "x")
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasSuffix(err.Error(), want)) {
			t.Fatalf("%s: got %v, want …%s", when, err, want)
		}
	}
	p := validating("p", "object.data.a == params.data.want")
	p.Spec.ParamKind = &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "Secret"}
	p.Spec.Validations[0].MessageExpression = "'want ' + string(params.data.want)"
	p = must(policies.Create(ctx, p, metav1.CreateOptions{}))(t)
	denied("without a binding", "")
	b := binding("b", "p")
	b.Spec.ParamRef = &admissionregistrationv1.ParamRef{Name: "s", ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)}
	must(bindings.Create(ctx, b, metav1.CreateOptions{}))(t)
	denied("without a param", "no params found for policy binding with `Deny` parameterNotFoundAction")
	secrets := c.CoreV1().Secrets("default")
	secret := must(secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"want": []byte("one")}}, metav1.CreateOptions{}))(t)
	denied("with a param", "want b25l")
	secret.Data["want"] = []byte("two")
	must(secrets.Update(ctx, secret, metav1.UpdateOptions{}))(t)
	denied("with another param", "want dHdv")
	if err := secrets.Delete(ctx, "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	denied("param gone", "no params found for policy binding with `Deny` parameterNotFoundAction")
	p.Spec.ParamKind, p.Spec.Validations = nil, []admissionregistrationv1.Validation{{Expression: "false", Message: "never"}}
	must(policies.Update(ctx, p, metav1.UpdateOptions{}))(t)
	denied("another policy", "never")
	if err := bindings.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	denied("binding gone", "")
}

// A policy that refuses everything cannot keep itself, its binding or other policies from being changed and removed.
func TestCannotLockItselfIn(t *testing.T) {
	_, c := start(t)
	ctx, policies, bindings := t.Context(), c.AdmissionregistrationV1().ValidatingAdmissionPolicies(), c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	p := validating("p", "false")
	all := []string{"*"}
	p.Spec.MatchConstraints.ResourceRules[0].RuleWithOperations = admissionregistrationv1.RuleWithOperations{Operations: []admissionregistrationv1.OperationType{"*"},
		Rule: admissionregistrationv1.Rule{APIGroups: all, APIVersions: all, Resources: []string{"*/*"}}}
	must(policies.Create(ctx, p, metav1.CreateOptions{}))(t)
	must(bindings.Create(ctx, binding("b", "p"), metav1.CreateOptions{}))(t)
	if err := put(ctx, c, "x"); !apierrors.IsInvalid(err) {
		t.Fatalf("got %v, want a refusal", err)
	}
	must(policies.Create(ctx, validating("q", "true"), metav1.CreateOptions{}))(t)
	p = must(policies.Get(ctx, "p", metav1.GetOptions{}))(t)
	p.Labels = map[string]string{"a": "b"}
	must(policies.Update(ctx, p, metav1.UpdateOptions{}))(t)
	for _, err := range []error{bindings.Delete(ctx, "b", metav1.DeleteOptions{}), policies.Delete(ctx, "p", metav1.DeleteOptions{}), put(ctx, c, "x")} {
		if err != nil {
			t.Error(err)
		}
	}
}

// Who may not read params may not make policies about them, nor bind them: messages would tell what is in them.
func TestParamsMustBeReadable(t *testing.T) {
	s, admin := start(t)
	ctx := t.Context()
	roles := admin.RbacV1()
	must(roles.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "policies"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"*"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}}}, metav1.CreateOptions{}))(t)
	must(roles.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "policies"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "policies"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "eve"}}}, metav1.CreateOptions{}))(t)
	eve := as(t, s, "eve", "some").AdmissionregistrationV1()
	until(t, "the rights of eve are known", func() bool {
		_, err := eve.ValidatingAdmissionPolicies().List(ctx, metav1.ListOptions{})
		return err == nil
	})
	about := func(name, kind string) *admissionregistrationv1.ValidatingAdmissionPolicy {
		p := validating(name, "true")
		p.Spec.ParamKind = &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: kind}
		return p
	}
	must(admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, about("of-admin", "Secret"), metav1.CreateOptions{}))(t)
	must(eve.ValidatingAdmissionPolicies().Create(ctx, about("readable", "ConfigMap"), metav1.CreateOptions{}))(t)
	refers := func(policy string) *admissionregistrationv1.ValidatingAdmissionPolicyBinding {
		b := binding("b", policy)
		b.Spec.ParamRef = &admissionregistrationv1.ParamRef{Name: "x", Namespace: "default", ParameterNotFoundAction: ptr.To(admissionregistrationv1.AllowAction)}
		return b
	}
	const who = `user &{eve  [some system:authenticated] map[]} `
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"kind":    {second(eve.ValidatingAdmissionPolicies().Create(ctx, about("unreadable", "Secret"), metav1.CreateOptions{})), `spec.paramKind: Forbidden: ` + who + `must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)`},
		"binding": {second(eve.ValidatingAdmissionPolicyBindings().Create(ctx, refers("of-admin"), metav1.CreateOptions{})), `spec.paramRef: Forbidden: ` + who + `does not have "get" permission on the object referenced by paramRef`},
		"no policy": {second(eve.ValidatingAdmissionPolicyBindings().Create(ctx, refers("none"), metav1.CreateOptions{})),
			`spec.paramRef: Forbidden: unable to get policy none to determine minimum required permissions and ` + who + `does not have "get" permission for all groups, versions and resources`},
		"readable": {second(eve.ValidatingAdmissionPolicyBindings().Create(ctx, refers("readable"), metav1.CreateOptions{})), ""},
	} {
		if c.want == "" && c.err != nil || c.want != "" && (!apierrors.IsInvalid(c.err) || !strings.HasSuffix(c.err.Error(), c.want)) {
			t.Errorf("%s: got %v\nwant …%s", name, c.err, c.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// record is what the audit log and the metrics are told.
func TestAuditAndMetrics(t *testing.T) {
	s, c := start(t)
	ctx := t.Context()
	p := validating("p", "object.data.a == 'c'", "object.data.zzz == 'x'", "true")
	p.Spec.Validations[0].Message = "no c"
	p.Spec.AuditAnnotations = []admissionregistrationv1.AuditAnnotation{{Key: "k", ValueExpression: "' ' + object.metadata.name + string(params == null ? '' : params.metadata.name)"}, {Key: "none", ValueExpression: "null"}}
	p.Spec.ParamKind = &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "Namespace"}
	must(c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, p, metav1.CreateOptions{}))(t)
	b := binding("b", "p", admissionregistrationv1.Audit, admissionregistrationv1.Warn)
	b.Spec.ParamRef = &admissionregistrationv1.ParamRef{ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction),
		Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: []string{"default", "kube-public"}}}}}
	must(c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, b, metav1.CreateOptions{}))(t)

	registry := prometheus.NewRegistry()
	policies := policy.New(policy.Config{Served: s.Resources, Changed: s.Store().Changed, Metrics: registry, Kind: func(k schema.GroupVersionKind) *resource.Resource {
		for _, r := range s.Resources() {
			if r.GVK() == k {
				return r
			}
		}
		return nil
	}})
	var warnings []string
	notes := make(map[string]string)
	err := policies.Validating().Validate(ctx, &admission.Attributes{
		Verb: "create", Resource: s.Cluster().Resource("", "configmaps"), Namespace: "default", Name: "x", User: &user.DefaultInfo{Name: "u"}, Cluster: s.Cluster(),
		New:  &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}, Data: map[string]string{"a": "b"}},
		Warn: func(text string) { warnings = append(warnings, text) },
		Audit: func(key, value string) {
			if _, ok := notes[key]; !ok {
				notes[key] = value
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 4 || warnings[0] != "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no c" {
		t.Errorf("got warnings %q", warnings)
	}
	want := map[string]string{"p/k": "xdefault, xkube-public",
		"validation.policy.admission.k8s.io/validation_failure": `[{"message":"no c","policy":"p","binding":"b","expressionIndex":0,"validationActions":["Audit","Warn"]}]`}
	if fmt.Sprint(notes) != fmt.Sprint(want) {
		t.Errorf("got annotations %v, want %v", notes, want)
	}
	for _, action := range []string{"audit", "warn"} {
		if got := counted(t, registry, "apiserver_validating_admission_policy_check_total", "b", action, "invalid_error", "p"); got != 4 {
			t.Errorf("%s: %v validations are counted, want 4", action, got)
		}
	}
}

// counted is the value of a counter with labels.
func counted(t *testing.T, registry prometheus.Gatherer, name string, labels ...string) (value float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			have := make(map[string]bool)
			for _, l := range m.GetLabel() {
				have[l.GetValue()] = true
			}
			missing := slices.ContainsFunc(labels, func(l string) bool { return !have[l] })
			if f.GetName() == name && !missing {
				value += m.GetCounter().GetValue()
			}
		}
	}
	return value
}

// A policy about one version of a kind changes objects that come in another one, which kube-apiserver cannot for built-in
// kinds.
func TestMutatesAnotherVersion(t *testing.T) {
	_, c := start(t)
	ctx := t.Context()
	p := &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
		MatchConstraints: configMaps(), ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
		Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration,
			ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: "Object{spec: Object.spec{targetCPUUtilizationPercentage: 33}}"}}}}}
	p.Spec.MatchConstraints.ResourceRules[0].Rule = admissionregistrationv1.Rule{APIGroups: []string{"autoscaling"}, APIVersions: []string{"v1"}, Resources: []string{"horizontalpodautoscalers"}}
	must(c.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, p, metav1.CreateOptions{}))(t)
	must(c.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"}}, metav1.CreateOptions{}))(t)
	to := autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}
	got := must(c.AutoscalingV2().HorizontalPodAutoscalers("default").Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "h"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 3, ScaleTargetRef: to}}, metav1.CreateOptions{}))(t)
	if len(got.Spec.Metrics) != 1 || got.Spec.Metrics[0].Resource == nil || *got.Spec.Metrics[0].Resource.Target.AverageUtilization != 33 || got.Spec.MaxReplicas != 3 {
		t.Errorf("got %+v, want a target of 33", got.Spec)
	}
	old := must(c.AutoscalingV1().HorizontalPodAutoscalers("default").Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "i"},
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{MaxReplicas: 3, ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(to)}}, metav1.CreateOptions{}))(t)
	if got := ptr.Deref(old.Spec.TargetCPUUtilizationPercentage, 0); got != 33 {
		t.Errorf("got target %d, want 33", got)
	}
}

// A policy changes the scale of a custom resource, which kube-apiserver cannot, and what a Scale does not have is an error.
func TestMutatesScaleOfCustomResource(t *testing.T) {
	_, c := start(t)
	ctx, client := t.Context(), c.CoreV1().RESTClient()
	const definition = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "sized.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
		"names": {"plural": "sized", "kind": "Sized"}, "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
		"schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}]}}`
	if err := client.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").Body([]byte(definition)).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	const path = "/apis/example.com/v1/namespaces/default/sized"
	until(t, "the custom resource is served", func() bool { return client.Get().AbsPath(path).Do(ctx).Error() == nil })
	if err := client.Post().AbsPath(path).Body([]byte(`{"apiVersion": "example.com/v1", "kind": "Sized", "metadata": {"name": "s"}, "spec": {"replicas": 1}}`)).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	mutate := func(name, expression string) {
		t.Helper()
		p := &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			MatchConstraints: configMaps(), ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: expression}}}}}
		p.Spec.MatchConstraints.ResourceRules[0].Rule = admissionregistrationv1.Rule{APIGroups: []string{"example.com"}, APIVersions: []string{"v1"}, Resources: []string{"sized/scale"}}
		must(c.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, p, metav1.CreateOptions{}))(t)
		must(c.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name}}, metav1.CreateOptions{}))(t)
	}
	scale := func() (*autoscalingv1.Scale, error) {
		var got autoscalingv1.Scale
		err := client.Patch(types.MergePatchType).AbsPath(path, "s", "scale").Body([]byte(`{"spec": {"replicas": 5}}`)).Do(ctx).Into(&got)
		return &got, err
	}
	mutate("a", "[JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas + 1}]")
	if got, err := scale(); err != nil || got.Spec.Replicas != 6 {
		t.Errorf("got %v, %v, want 6 replicas", got, err)
	}
	mutate("b", "[JSONPatch{op: 'add', path: '/spec/odd', value: 1}]")
	if _, err := scale(); err == nil || !strings.Contains(err.Error(), `unknown field "spec.odd"`) {
		t.Errorf("got %v, want an unknown field", err)
	}
}

// What policies add by copying is bounded, whatever was asked of the server before.
func TestCopiesAreBounded(t *testing.T) {
	_, c := start(t)
	ctx := t.Context()
	var b strings.Builder
	b.WriteString("[JSONPatch{op: 'add', path: '/data/x0', value: object.data.big}")
	for i := range 40 {
		fmt.Fprintf(&b, ", JSONPatch{op: 'copy', from: '/data', path: '/data/y%d'}", i)
	}
	b.WriteString("]")
	p := &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
		MatchConstraints: configMaps(), ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
		Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: b.String()}}}}}
	must(c.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, p, metav1.CreateOptions{}))(t)
	must(c.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"}}, metav1.CreateOptions{}))(t)
	_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string]string{"big": strings.Repeat("x", 100_000)}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "the accumulated size increase of copy is") {
		t.Errorf("got %v, want a refusal of the copies", err)
	}
}

// Writes and policies that change all the while get along with each other, and a thousand policies that are about
// something else do not get in the way.
func TestManyPolicies(t *testing.T) {
	_, c := start(t)
	ctx, policies := t.Context(), c.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	many(t, c, 1000, "secrets")
	q := validating("q", "variables.a != 'x'")
	q.Spec.Variables = []admissionregistrationv1.Variable{{Name: "a", Expression: "object.data.a"}}
	must(policies.Create(ctx, q, metav1.CreateOptions{}))(t)
	must(c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, binding("q", "q"), metav1.CreateOptions{}))(t)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := range 25 {
				if err := put(ctx, c, fmt.Sprintf("x-%d-%d", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 25 {
		now, err := policies.Get(ctx, "q", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		now.Spec.Validations[0].Message = fmt.Sprint(n)
		if _, err := policies.Update(ctx, now, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			t.Error(err)
		}
	}
	all.Wait()
}

// many makes policies with bindings about another resource.
func many(t testing.TB, c kubernetes.Interface, n int, plural string) {
	t.Helper()
	ctx := context.Background()
	for i := range n {
		p := validating(fmt.Sprintf("many-%d", i), "object.data.a == 'x'")
		p.Spec.MatchConstraints.ResourceRules[0].Resources = []string{plural}
		must(c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, p, metav1.CreateOptions{}))(t)
		must(c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, binding(p.Name, p.Name), metav1.CreateOptions{}))(t)
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, bench := range []struct {
		name   string
		n      int
		plural string
	}{{"none", 0, ""}, {"100 about others", 100, "secrets"}, {"1000 about others", 1000, "secrets"}, {"10 that match", 10, "configmaps"}} {
		b.Run(bench.name, func(b *testing.B) {
			_, c := start(b)
			many(b, c, bench.n, bench.plural)
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if err := put(ctx, c, "x"); err != nil && bench.plural != "configmaps" {
					b.Fatal(err)
				}
			}
		})
	}
}
