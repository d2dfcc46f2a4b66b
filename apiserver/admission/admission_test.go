package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// kinds are those of the objects in the tests, by plural.
var kinds = map[string]*resource.Resource{
	"pods":            {Version: "v1", Kind: "Pod", Plural: "pods"},
	"configmaps":      {Version: "v1", Kind: "ConfigMap", Plural: "configmaps"},
	"namespaces":      {Version: "v1", Kind: "Namespace", Plural: "namespaces", ClusterScoped: true},
	"nodes":           {Version: "v1", Kind: "Node", Plural: "nodes", ClusterScoped: true},
	"serviceaccounts": {Version: "v1", Kind: "ServiceAccount", Plural: "serviceaccounts"},
	"limitranges":     {Version: "v1", Kind: "LimitRange", Plural: "limitranges"},
	"priorityclasses": {Group: schedulingv1.GroupName, Version: "v1", Kind: "PriorityClass", Plural: "priorityclasses", ClusterScoped: true},
	"clusterroles":    {Group: rbacv1.GroupName, Version: "v1", Kind: "ClusterRole", Plural: "clusterroles", ClusterScoped: true},
	"resourceslices":  {Group: resourcev1.GroupName, Version: "v1", Kind: "ResourceSlice", Plural: "resourceslices", ClusterScoped: true},
	"rolebindings":    {Group: rbacv1.GroupName, Version: "v1", Kind: "RoleBinding", Plural: "rolebindings"},
}

// objects is a cluster to read from, by "plural/namespace/name".
type objects map[string]resource.Object

func (o objects) Resource(group, plural string) *resource.Resource {
	if r := kinds[plural]; r != nil && r.Group == group {
		return r
	}
	return nil
}

func (o objects) Get(_ context.Context, r *resource.Resource, namespace, name string) (resource.Object, error) {
	if obj := o[r.Plural+"/"+namespace+"/"+name]; obj != nil {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r.GR(), name)
}

func (o objects) List(_ context.Context, r *resource.Resource, namespace string) ([]resource.Object, error) {
	var list []resource.Object
	for key, obj := range o {
		if strings.HasPrefix(key, r.Plural+"/"+namespace) {
			list = append(list, obj)
		}
	}
	slices.SortFunc(list, func(a, b resource.Object) int { return strings.Compare(a.GetName(), b.GetName()) })
	return list, nil
}

func (o objects) Create(context.Context, *resource.Resource, resource.Object) (resource.Object, error) {
	panic("plugins do not create")
}
func (o objects) Update(context.Context, *resource.Resource, string, string, bool, func(resource.Object) error) (resource.Object, error) {
	panic("plugins do not update")
}
func (o objects) Delete(context.Context, *resource.Resource, string, string, *metav1.DeleteOptions) (resource.Object, error) {
	panic("plugins do not delete")
}

// rights are those of a user who may do what rules say, and the rules of roles.
type rights struct {
	rules []rbacv1.PolicyRule
	may   []string // "verb resource/name"
	roles map[string][]rbacv1.PolicyRule
}

func (r rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if slices.Contains(r.may, a.GetVerb()+" "+a.GetResource()+"/"+a.GetName()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (r rights) PolicyRules(user.Info, string) ([]rbacv1.PolicyRule, error) { return r.rules, nil }

func (r rights) RoleRules(ref rbacv1.RoleRef, _ string) ([]rbacv1.PolicyRule, bool) {
	rules, ok := r.roles[ref.Name]
	return rules, ok
}

// attributes of a write of obj to a kind in namespace ns.
func attributes(cluster objects, plural, verb string, obj, old runtime.Object) *Attributes {
	a := &Attributes{Verb: verb, Resource: kinds[plural], User: &user.DefaultInfo{Name: "eve", Groups: []string{"g"}}, Old: old, New: obj, Cluster: cluster}
	if !a.Resource.ClusterScoped {
		a.Namespace = "ns"
	}
	if o := a.Object(); o != nil {
		a.Name = o.GetName()
	}
	return a
}

// run runs both phases of a plugin.
func run(t *testing.T, p Plugin, a *Attributes) error {
	t.Helper()
	c := Chain{p}
	if err := c.Mutate(t.Context(), a); err != nil {
		return err
	}
	return c.Validate(t.Context(), a)
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if got := fmt.Sprint(err); want == "" && err != nil || want != "" && got != want {
		t.Errorf("got error:\n%v\nwant:\n%s", err, want)
	}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: named(name), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestNamespaceLifecycle(t *testing.T) {
	namespace := func(phase corev1.NamespacePhase) objects {
		return objects{"namespaces//ns": &corev1.Namespace{Status: corev1.NamespaceStatus{Phase: phase}}}
	}
	for _, c := range []struct {
		name, plural, verb, object string
		cluster                    objects
		want                       string
	}{
		{"active", "configmaps", create, "a", namespace(corev1.NamespaceActive), ""},
		{"missing", "configmaps", create, "a", objects{}, `namespaces "ns" not found`},
		{"update where missing", "configmaps", update, "a", objects{}, `namespaces "ns" not found`},
		{"delete where missing", "configmaps", remove, "a", objects{}, ""},
		{"terminating", "configmaps", create, "a", namespace(corev1.NamespaceTerminating),
			`configmaps "a" is forbidden: unable to create new content in namespace ns because it is being terminated`},
		{"update where terminating", "configmaps", update, "a", namespace(corev1.NamespaceTerminating), ""},
		{"delete a namespace", "namespaces", remove, "a", objects{}, ""},
		{"delete an immortal namespace", "namespaces", remove, "kube-system", objects{},
			`namespaces "kube-system" is forbidden: this namespace may not be deleted`},
		{"cluster-scoped", "nodes", create, "a", objects{}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attributes(c.cluster, c.plural, c.verb, nil, nil)
			a.Name = c.object
			checkError(t, run(t, namespaceLifecycle(), a), c.want)
		})
	}
	err := run(t, namespaceLifecycle(), attributes(namespace(corev1.NamespaceTerminating), "configmaps", create, nil, nil))
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("the error %v does not tell NamespaceTerminating as its cause", err)
	}
}

func TestServiceAccount(t *testing.T) {
	account := func(change ...func(*corev1.ServiceAccount)) objects {
		s := &corev1.ServiceAccount{ObjectMeta: named("default")}
		for _, f := range change {
			f(s)
		}
		return objects{"serviceaccounts/ns/default": s}
	}
	mounts := func(p *corev1.Pod) int { return len(p.Spec.Containers[0].VolumeMounts) }

	t.Run("credentials are mounted", func(t *testing.T) {
		p := pod("p", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "i"}} })
		cluster := account(func(s *corev1.ServiceAccount) { s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}} })
		checkError(t, run(t, serviceAccount(), attributes(cluster, "pods", create, p, nil)), "")
		if p.Spec.ServiceAccountName != "default" || p.Spec.DeprecatedServiceAccount != "default" {
			t.Errorf("got account %q (%q), want default in both", p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount)
		}
		if len(p.Spec.ImagePullSecrets) != 1 || p.Spec.ImagePullSecrets[0].Name != "pull" {
			t.Errorf("got pull secrets %v, want that of the account", p.Spec.ImagePullSecrets)
		}
		if len(p.Spec.Volumes) != 1 || !strings.HasPrefix(p.Spec.Volumes[0].Name, "kube-api-access-") || len(p.Spec.Volumes[0].Name) != len("kube-api-access-")+5 {
			t.Fatalf("got volumes %v, want one kube-api-access-xxxxx", p.Spec.Volumes)
		}
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			want := corev1.VolumeMount{Name: p.Spec.Volumes[0].Name, ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}
			if len(c.VolumeMounts) != 1 || c.VolumeMounts[0] != want {
				t.Errorf("container %s: got mounts %v, want %v", c.Name, c.VolumeMounts, want)
			}
		}
		s := p.Spec.Volumes[0].Projected.Sources
		if len(s) != 3 || *s[0].ServiceAccountToken.ExpirationSeconds != 3607 || s[1].ConfigMap.Name != "kube-root-ca.crt" || s[2].DownwardAPI.Items[0].Path != "namespace" {
			t.Errorf("got sources %v, want token, certificate and namespace", s)
		}
	})
	for _, c := range []struct {
		name    string
		cluster objects
		pod     *corev1.Pod
		mounts  int
		want    string
	}{
		{"the account says no", account(func(s *corev1.ServiceAccount) { s.AutomountServiceAccountToken = ptr.To(false) }), pod("p"), 0, ""},
		{"the pod has the last word", account(func(s *corev1.ServiceAccount) { s.AutomountServiceAccountToken = ptr.To(false) }),
			pod("p", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(true) }), 1, ""},
		{"the pod says no", account(), pod("p", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = ptr.To(false) }), 0, ""},
		{"something else is mounted there", account(), pod("p", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "own", MountPath: tokenMountPath}}
		}), 1, ""},
		{"no such account", account(), pod("p", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), 0,
			`pods "p" is forbidden: error looking up service account ns/x: serviceaccount "x" not found`},
		{"mirror pods are left alone", account(), pod("p", mirror), 0, ""},
		{"mirror pods have no account", account(), pod("p", mirror, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), 0,
			`pods "p" is forbidden: a mirror pod may not reference service accounts`},
		{"secrets the account does not list", account(func(s *corev1.ServiceAccount) { s.Annotations = map[string]string{enforceMountableSecrets: "true"} }),
			pod("p", func(p *corev1.Pod) {
				p.Spec.AutomountServiceAccountToken = ptr.To(false)
				p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
			}), 0, `pods "p" is forbidden: volume with secret.secretName="s" is not allowed because service account default does not reference that secret`},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, run(t, serviceAccount(), attributes(c.cluster, "pods", create, c.pod, nil)), c.want)
			if c.want == "" && mounts(c.pod) != c.mounts {
				t.Errorf("got %d mounts, want %d", mounts(c.pod), c.mounts)
			}
		})
	}
}

func mirror(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }

func TestDefaultTolerationSeconds(t *testing.T) {
	own := corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	for _, c := range []struct {
		name   string
		choice Choice
		given  []corev1.Toleration
		want   []string
	}{
		{"none", Choice{}, nil, []string{"node.kubernetes.io/not-ready 300", "node.kubernetes.io/unreachable 300"}},
		{"its own", Choice{}, []corev1.Toleration{own}, []string{"node.kubernetes.io/not-ready for ever", "node.kubernetes.io/unreachable 300"}},
		{"everything", Choice{}, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, []string{" for ever"}},
		{"chosen", Choice{NotReadySeconds: ptr.To[int64](0), UnreachableSeconds: ptr.To[int64](7)}, nil, []string{"node.kubernetes.io/not-ready 0", "node.kubernetes.io/unreachable 7"}},
	} {
		p := pod("p", func(p *corev1.Pod) { p.Spec.Tolerations = c.given })
		checkError(t, run(t, defaultTolerationSeconds(c.choice), attributes(objects{}, "pods", create, p, nil)), "")
		var got []string
		for _, x := range p.Spec.Tolerations {
			text := " for ever"
			if x.TolerationSeconds != nil {
				text = fmt.Sprint(" ", *x.TolerationSeconds)
			}
			got = append(got, x.Key+text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPriority(t *testing.T) {
	class := func(name string, value int32, isDefault bool) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: isDefault, PreemptionPolicy: ptr.To(corev1.PreemptNever)}
	}
	plain := objects{"priorityclasses//high": class("high", 100, false)}
	withDefault := objects{"priorityclasses//high": class("high", 100, false), "priorityclasses//usual": class("usual", 7, true)}
	for _, c := range []struct {
		name    string
		cluster objects
		class   string
		given   *int32
		want    string
		value   int32
		policy  corev1.PreemptionPolicy
		found   string
	}{
		{"none", plain, "", nil, "", 0, corev1.PreemptLowerPriority, ""},
		{"default class", withDefault, "", nil, "", 7, corev1.PreemptNever, "usual"},
		{"named", withDefault, "high", nil, "", 100, corev1.PreemptNever, "high"},
		{"the same number", plain, "high", ptr.To(int32(100)), "", 100, corev1.PreemptNever, "high"},
		{"another number", plain, "high", ptr.To(int32(1)), `pods "p" is forbidden: the integer value of priority (1) must not be provided in pod spec; priority admission controller computed 100 from the given PriorityClass name`, 0, "", ""},
		{"unknown", plain, "x", nil, `pods "p" is forbidden: no PriorityClass with name x was found`, 0, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := pod("p", func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.Priority = c.class, c.given })
			checkError(t, run(t, priority(), attributes(c.cluster, "pods", create, p, nil)), c.want)
			if c.want != "" {
				return
			}
			if *p.Spec.Priority != c.value || *p.Spec.PreemptionPolicy != c.policy || p.Spec.PriorityClassName != c.found {
				t.Errorf("got %s %d %s, want %s %d %s", p.Spec.PriorityClassName, *p.Spec.Priority, *p.Spec.PreemptionPolicy, c.found, c.value, c.policy)
			}
		})
	}
	second := attributes(withDefault, "priorityclasses", create, class("other", 1, true), nil)
	checkError(t, run(t, priority(), second),
		`priorityclasses.scheduling.k8s.io "other" is forbidden: PriorityClass usual is already marked as default. Only one default can exist`)
	for name, want := range map[string]string{
		"high":                 "",
		"system-node-critical": `priorityclasses.scheduling.k8s.io "system-node-critical" is forbidden: this is a system priority class and cannot be deleted`,
	} {
		deleted := attributes(plain, "priorityclasses", remove, nil, nil)
		deleted.Name = name
		checkError(t, run(t, priority(), deleted), want)
	}
}

func TestLimitRanger(t *testing.T) {
	q := apiresource.MustParse
	list := func(cpu string) corev1.ResourceList { return corev1.ResourceList{corev1.ResourceCPU: q(cpu)} }
	limits := func(items ...corev1.LimitRangeItem) objects {
		return objects{"limitranges/ns/l": &corev1.LimitRange{ObjectMeta: named("l"), Spec: corev1.LimitRangeSpec{Limits: items}}}
	}
	using := func(request, limit string) *corev1.Pod {
		return pod("p", func(p *corev1.Pod) {
			if request != "" {
				p.Spec.Containers[0].Resources.Requests = list(request)
			}
			if limit != "" {
				p.Spec.Containers[0].Resources.Limits = list(limit)
			}
		})
	}
	for _, c := range []struct {
		name    string
		cluster objects
		pod     *corev1.Pod
		want    string
	}{
		{"within", limits(corev1.LimitRangeItem{Type: "Container", Min: list("1"), Max: list("4")}), using("1", "4"), ""},
		{"below", limits(corev1.LimitRangeItem{Type: "Container", Min: list("1")}), using("500m", "4"),
			`pods "p" is forbidden: minimum cpu usage per Container is 1, but request is 500m`},
		{"no request", limits(corev1.LimitRangeItem{Type: "Container", Min: list("1")}), using("", ""),
			`pods "p" is forbidden: minimum cpu usage per Container is 1.  No request is specified`},
		{"above", limits(corev1.LimitRangeItem{Type: "Container", Max: list("1")}), using("1", "2"),
			`pods "p" is forbidden: maximum cpu usage per Container is 1, but limit is 2`},
		{"above as a pod", limits(corev1.LimitRangeItem{Type: "Pod", Max: list("1")}), using("1", "2"),
			`pods "p" is forbidden: maximum cpu usage per Pod is 1, but limit is 2`},
		{"ratio", limits(corev1.LimitRangeItem{Type: "Container", MaxLimitRequestRatio: list("2")}), using("1", "3"),
			`pods "p" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000`},
		{"two reasons", limits(corev1.LimitRangeItem{Type: "Container", Min: list("1"), Max: list("2")}), using("500m", "4"),
			`pods "p" is forbidden: [minimum cpu usage per Container is 1, but request is 500m, maximum cpu usage per Container is 2, but limit is 4]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, run(t, limitRanger(), attributes(c.cluster, "pods", create, c.pod, nil)), c.want)
		})
	}
	t.Run("defaults", func(t *testing.T) {
		p := using("", "")
		cluster := limits(corev1.LimitRangeItem{Type: "Container", DefaultRequest: list("100m"), Default: list("200m")})
		checkError(t, run(t, limitRanger(), attributes(cluster, "pods", create, p, nil)), "")
		r := p.Spec.Containers[0].Resources
		if r.Requests.Cpu().String() != "100m" || r.Limits.Cpu().String() != "200m" {
			t.Errorf("got %v, want request 100m and limit 200m", r)
		}
		if got, want := p.Annotations[limitRangerAnnotation], "LimitRanger plugin set: cpu request for container c; cpu limit for container c"; got != want {
			t.Errorf("got annotation %q, want %q", got, want)
		}
	})
}

func TestPodSecurity(t *testing.T) {
	namespace := func(labels map[string]string) objects {
		return objects{"namespaces//ns": &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: labels}}}
	}
	privileged := pod("p", func(p *corev1.Pod) {
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	})
	const detail = `privileged (container "c" must not set securityContext.privileged=true)`
	for _, c := range []struct {
		name     string
		labels   map[string]string
		pod      *corev1.Pod
		want     string
		warnings []string
	}{
		{"no labels", nil, privileged, "", nil},
		{"enforced", map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}, privileged,
			`pods "p" is forbidden: violates PodSecurity "baseline:latest": ` + detail, nil},
		{"enforced and kept", map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}, pod("p"), "", nil},
		{"warned", map[string]string{"pod-security.kubernetes.io/warn": "baseline"}, privileged, "",
			[]string{`would violate PodSecurity "baseline:latest": ` + detail}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var warnings []string
			a := attributes(namespace(c.labels), "pods", create, c.pod, nil)
			a.Warn = func(text string) { warnings = append(warnings, text) }
			checkError(t, run(t, insecure(t), a), c.want)
			if !slices.Equal(warnings, c.warnings) {
				t.Errorf("got warnings %q, want %q", warnings, c.warnings)
			}
		})
	}
	t.Run("existing pods", func(t *testing.T) {
		cluster := objects{"pods/ns/p": privileged, "pods/ns/q": pod("q")}
		old := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
		strict := old.DeepCopy()
		strict.Labels = map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}
		a := attributes(cluster, "namespaces", update, strict, old)
		var warnings []string
		a.Warn = func(text string) { warnings = append(warnings, text) }
		checkError(t, run(t, insecure(t), a), "")
		want := []string{`existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest"`, "p: privileged"}
		if !slices.Equal(warnings, want) {
			t.Errorf("got warnings %q, want %q", warnings, want)
		}
	})
	t.Run("wrong level", func(t *testing.T) {
		bad := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "x"}}}
		checkError(t, run(t, insecure(t), attributes(objects{}, "namespaces", create, bad, nil)),
			`Namespace "ns" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "x": must be one of privileged, baseline, restricted`)
	})
}

func TestNodeRestriction(t *testing.T) {
	cluster := objects{
		"nodes//n1":    &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "1"}},
		"pods/ns/mine": pod("mine", func(p *corev1.Pod) { p.Spec.NodeName = "n1" }),
		"pods/ns/your": pod("your", func(p *corev1.Pod) { p.Spec.NodeName = "n2" }),
	}
	owned := func(p *corev1.Pod) {
		p.Spec.NodeName = "n1"
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "1", Controller: ptr.To(true)}}
	}
	node := func(change ...func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		for _, f := range change {
			f(n)
		}
		return n
	}
	slice := func(node string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node}}
	}
	claims := func(change func(*corev1.PodStatus)) *corev1.Pod {
		return pod("mine", func(p *corev1.Pod) { p.Spec.NodeName = "n1"; change(&p.Status) })
	}
	for _, c := range []struct {
		name, plural, verb, sub string
		obj, old                runtime.Object
		object                  string
		want                    string
	}{
		{"mirror pod", "pods", create, "", pod("m", mirror, owned), nil, "m", ""},
		{"plain pod", "pods", create, "", pod("m", owned), nil, "m",
			`pods "m" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{"mirror pod with an account", "pods", create, "", pod("m", mirror, owned, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), nil, "m",
			`pods "m" is forbidden: node "n1" can not create pods that reference serviceaccounts`},
		{"delete its pod", "pods", remove, "", nil, nil, "mine", ""},
		{"delete another pod", "pods", remove, "", nil, nil, "your",
			`pods "your" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself`},
		{"status of another pod", "pods", update, "status", cluster["pods/ns/your"], cluster["pods/ns/your"], "your",
			`pods "your" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself`},
		{"status of its pod", "pods", update, "status", claims(func(s *corev1.PodStatus) { s.Phase = corev1.PodRunning }), cluster["pods/ns/mine"], "mine", ""},
		{"claims in the status of its pod", "pods", update, "status", claims(func(s *corev1.PodStatus) { s.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "c"}} }),
			cluster["pods/ns/mine"], "mine", `pods "mine" is forbidden: node "n1" cannot update resource claim statues`},
		{"extended claim in the status of its pod", "pods", update, "status", claims(func(s *corev1.PodStatus) {
			s.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c"}
		}), cluster["pods/ns/mine"], "mine", `pods "mine" is forbidden: node "n1" cannot update extended resource claim status`},
		{"its slice", "resourceslices", create, "", slice("n1"), nil, "s", ""},
		{"another slice", "resourceslices", create, "", slice("n2"), nil, "s",
			`resourceslices.resource.k8s.io "s" is forbidden: can only create ResourceSlice with the same NodeName as the requesting node`},
		{"slice of all nodes", "resourceslices", create, "", &resourcev1.ResourceSlice{}, nil, "s",
			`resourceslices.resource.k8s.io "s" is forbidden: can only create ResourceSlice with the same NodeName as the requesting node`},
		{"deletion of another slice", "resourceslices", remove, "", nil, slice("n2"), "s",
			`resourceslices.resource.k8s.io "s" is forbidden: can only delete ResourceSlice with the same NodeName as the requesting node`},
		{"deletion of its slice", "resourceslices", remove, "", nil, slice("n1"), "s", ""},
		{"another node", "nodes", update, "", node(), node(), "n2", `nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"`},
		{"taints", "nodes", update, "", node(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k"}} }), node(), "n1",
			`nodes "n1" is forbidden: node "n1" is not allowed to modify taints`},
		{"a label of its own", "nodes", create, "", node(func(n *corev1.Node) {
			n.Labels = map[string]string{"kubernetes.io/hostname": "n1", "example.com/x": "1"}
		}), nil, "n1", ""},
		{"a label that steers", "nodes", create, "", node(func(n *corev1.Node) { n.Labels = map[string]string{"node-restriction.kubernetes.io/x": "1"} }), nil, "n1",
			`nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/x`},
		{"a role", "nodes", update, "", node(func(n *corev1.Node) { n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""} }), node(), "n1",
			`nodes "n1" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/control-plane`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attributes(cluster, c.plural, c.verb, c.obj, c.old)
			a.Name, a.Subresource = c.object, c.sub
			a.User = &user.DefaultInfo{Name: "system:node:n1", Groups: []string{user.NodesGroup}}
			checkError(t, run(t, nodeRestriction(rights{}), a), c.want)
		})
	}
}

func TestRoleEscalation(t *testing.T) {
	rule := func(verb, resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{Verbs: []string{verb, "list"}, APIGroups: []string{""}, Resources: []string{resource}}}
	}
	role := func(rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: rules}
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: named("b"), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "r"}}
	aggregating := role(nil)
	aggregating.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	const missing = `user "eve" (groups=["g"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}`
	for _, c := range []struct {
		name   string
		rights rights
		plural string
		obj    runtime.Object
		want   string
	}{
		{"what one has", rights{rules: rule("get", "secrets")}, "clusterroles", role(rule("get", "secrets")), ""},
		{"more than one has", rights{rules: rule("get", "pods")}, "clusterroles", role(rule("get", "secrets")),
			`clusterroles.rbac.authorization.k8s.io "r" is forbidden: ` + missing},
		{"by the verb escalate", rights{may: []string{"escalate clusterroles/"}}, "clusterroles", role(rule("get", "secrets")), ""},
		{"bind more than one has", rights{roles: map[string][]rbacv1.PolicyRule{"r": rule("get", "secrets")}}, "rolebindings", binding,
			`rolebindings.rbac.authorization.k8s.io "b" is forbidden: ` + missing},
		{"by the verb bind", rights{may: []string{"bind clusterroles/r"}}, "rolebindings", binding, ""},
		{"bind what is not there", rights{}, "rolebindings", binding, `rolebindings.rbac.authorization.k8s.io "r" not found`},
		{"aggregate", rights{rules: rule("get", "secrets")}, "clusterroles", aggregating,
			`clusterroles.rbac.authorization.k8s.io "r" is forbidden: must have cluster-admin privileges to use the aggregationRule`},
		{"aggregate as an administrator", rights{rules: everything}, "clusterroles", aggregating, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, run(t, roleEscalation(c.rights), attributes(objects{}, c.plural, create, c.obj, nil)), c.want)
		})
	}
	t.Run("master", func(t *testing.T) {
		a := attributes(objects{}, "clusterroles", create, role(everything), nil)
		a.User = &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}}
		checkError(t, run(t, roleEscalation(rights{}), a), "")
	})
}

// insecure is Pod Security without a configuration.
func insecure(t *testing.T) Plugin {
	t.Helper()
	p, err := podSecurity(nil, newSecurityMetrics(nil))
	if err != nil {
		t.Fatal(err)
	}
	return p
}
