package apiserver_test

import (
	"context"
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	rbacv1ac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// climber may write roles and bindings, and has no other right.
const climber = "climber"

// TestEscalation has somebody who may write roles and bindings, but neither bind nor escalate, try to get more than that.
func TestEscalation(t *testing.T) {
	s := apiservertest.Start(t, nil)
	admin := clientset(t, apiservertest.Config(s, "admin")).RbacV1()
	all := []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}
	grant(t, s, climber, []rbacv1.PolicyRule{{Verbs: []string{"get", "create", "update", "patch"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"*"}}})
	must(t)(admin.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "dangerous"}, Rules: all}, metav1.CreateOptions{}))
	must(t)(admin.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "harmless"}}, metav1.CreateOptions{}))
	must(t)(admin.Roles("default").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "harmless"}}, metav1.CreateOptions{}))
	self := []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: climber}}
	powerful := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}
	must(t)(admin.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "powerful"}, RoleRef: powerful}, metav1.CreateOptions{}))

	c := clientset(t, apiservertest.Config(s, climber, "system:authenticated"))
	rbac := c.RbacV1()
	apply := metav1.ApplyOptions{FieldManager: "x", Force: true}
	rule := rbacv1ac.PolicyRule().WithVerbs("*").WithAPIGroups("*").WithResources("*")
	ref := rbacv1ac.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName("cluster-admin")
	for name, try := range map[string]func(context.Context) (any, error){
		"create a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Rules: all}, metav1.CreateOptions{})
		},
		"update a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Update(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "harmless"}, Rules: all}, metav1.UpdateOptions{})
		},
		"update that creates a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Update(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Rules: all}, metav1.UpdateOptions{})
		},
		"apply a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Apply(ctx, rbacv1ac.ClusterRole("harmless").WithRules(rule), apply)
		},
		"apply that creates a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Apply(ctx, rbacv1ac.ClusterRole("new").WithRules(rule), apply)
		},
		"apply a role of a namespace": func(ctx context.Context) (any, error) {
			return rbac.Roles("default").Apply(ctx, rbacv1ac.Role("harmless", "default").WithRules(rule), apply)
		},
		"merge into a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Patch(ctx, "harmless", types.MergePatchType, []byte(`{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`), metav1.PatchOptions{})
		},
		"patch a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Patch(ctx, "harmless", types.JSONPatchType, []byte(`[{"op":"add","path":"/rules","value":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}]`), metav1.PatchOptions{})
		},
		"paths of a role": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"*"}}}}, metav1.CreateOptions{})
		},
		"aggregate all roles": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "new"}, AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}}, metav1.CreateOptions{})
		},
		"aggregate by a patch": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Patch(ctx, "harmless", types.MergePatchType, []byte(`{"aggregationRule":{"clusterRoleSelectors":[{}]}}`), metav1.PatchOptions{})
		},
		"label a role for another": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoles().Patch(ctx, "dangerous", types.MergePatchType, []byte(`{"metadata":{"labels":{"rbac.authorization.k8s.io/aggregate-to-view":"true"}}}`), metav1.PatchOptions{})
		},
		"bind": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "new"}, RoleRef: powerful, Subjects: self}, metav1.CreateOptions{})
		},
		"bind in a namespace": func(ctx context.Context) (any, error) {
			return rbac.RoleBindings("kube-system").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "new"}, RoleRef: powerful, Subjects: self}, metav1.CreateOptions{})
		},
		"bind by an update": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoleBindings().Update(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "powerful"}, RoleRef: powerful, Subjects: self}, metav1.UpdateOptions{})
		},
		"bind by an update that creates": func(ctx context.Context) (any, error) {
			return rbac.RoleBindings("default").Update(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "new"}, RoleRef: powerful, Subjects: self}, metav1.UpdateOptions{})
		},
		"bind by a patch": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoleBindings().Patch(ctx, "powerful", types.MergePatchType, []byte(`{"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"climber"}]}`), metav1.PatchOptions{})
		},
		"bind by an apply that creates": func(ctx context.Context) (any, error) {
			return rbac.ClusterRoleBindings().Apply(ctx, rbacv1ac.ClusterRoleBinding("new").WithRoleRef(ref).WithSubjects(rbacv1ac.Subject().WithKind("User").WithAPIGroup(rbacv1.GroupName).WithName(climber)), apply)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := try(t.Context()); !apierrors.IsForbidden(err) {
				t.Errorf("it gets %v", err)
			}
			if _, err := c.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
				t.Errorf("then secrets are listed: %v", err)
			}
		})
	}
}

// TestSubresourcesChangeNothingElse writes whole objects by those who may write a status or a scale, and no more.
func TestSubresourcesChangeNothingElse(t *testing.T) {
	s := apiservertest.Start(t, nil)
	admin := clientset(t, apiservertest.Config(s, "admin"))
	was, err := admin.AppsV1().Deployments("default").Create(t.Context(), deploymentOf("trusted"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	grant(t, s, "eve", []rbacv1.PolicyRule{{Verbs: []string{"get", "update", "patch"}, APIGroups: []string{"apps"}, Resources: []string{"deployments/status", "deployments/scale"}},
		{Verbs: []string{"update", "patch"}, APIGroups: []string{""}, Resources: []string{"pods/status", "nodes/status", "serviceaccounts/status"}}})
	eve := clientset(t, apiservertest.Config(s, "eve", "system:authenticated"))
	changed := deploymentOf("hostile")
	changed.Labels, changed.Spec.Template.Spec.ServiceAccountName = map[string]string{"a": "b"}, "admin"
	_, err = eve.AppsV1().Deployments("default").UpdateStatus(t.Context(), changed, metav1.UpdateOptions{})
	must(t)(nil, err)
	for _, sub := range []string{"status", "scale"} {
		for form, patch := range map[types.PatchType]string{
			types.MergePatchType:          `{"metadata":{"labels":{"a":"b"}},"spec":{"template":{"spec":{"serviceAccountName":"admin"}}}}`,
			types.StrategicMergePatchType: `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"hostile"}]}}}}`,
			types.ApplyPatchType:          `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"template":{"spec":{"serviceAccountName":"admin"}}}}`,
		} {
			eve.AppsV1().Deployments("default").Patch(t.Context(), "d", form, []byte(patch), metav1.PatchOptions{FieldManager: fieldManager(form)}, sub) // refused, or without effect
		}
	}
	_, err = eve.AppsV1().Deployments("default").UpdateScale(t.Context(), "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default", Labels: map[string]string{"a": "b"}}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, metav1.UpdateOptions{})
	must(t)(nil, err)
	is, err := admin.AppsV1().Deployments("default").Get(t.Context(), "d", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *is.Spec.Replicas != 3 || is.Spec.Template.Spec.Containers[0].Image != "trusted" || !reflect.DeepEqual(is.Spec.Template, was.Spec.Template) || len(is.Labels) > 0 {
		t.Errorf("it is now %+v", is)
	}
	sameButForStatus(t, admin, eve)
}

func fieldManager(form types.PatchType) string {
	if form == types.ApplyPatchType {
		return "x"
	}
	return ""
}

// sameButForStatus has eve, who may write the status of pods, change the rest of one.
func sameButForStatus(t *testing.T, admin, eve kubernetes.Interface) {
	t.Helper()
	must(t)(admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	was, err := admin.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: deploymentOf("trusted").Spec.Template.Spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := was.DeepCopy()
	pod.Spec.Containers[0].Image, pod.Spec.NodeName, pod.Labels = "hostile", "n", map[string]string{"a": "b"}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "1"}}
	_, err = eve.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	must(t)(nil, err)
	eve.CoreV1().Pods("default").ApplyStatus(t.Context(), corev1ac.Pod("p", "default").WithSpec(corev1ac.PodSpec().WithNodeName("n")), metav1.ApplyOptions{FieldManager: "x", Force: true}) // refused, or without effect
	is, err := admin.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(is.Spec, was.Spec) || len(is.OwnerReferences) > 0 {
		t.Errorf("the pod is now %+v", is)
	}
}

func deploymentOf(image string) *appsv1.Deployment {
	labels := map[string]string{"app": "d"}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}},
	}}
}
