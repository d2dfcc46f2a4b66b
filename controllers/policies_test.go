package controllers_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestDisruptionBudgetCountsPods(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	budgets := w.PolicyV1().PodDisruptionBudgets(w.namespace)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector("web"), MaxUnavailable: ptr(intstr.FromString("50%"))}}
	if _, err := budgets.Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.deployment("web", "x", 4)
	w.eventually("two disruptions allowed", func() error {
		b, err := budgets.Get(ctx, "web", metav1.GetOptions{})
		if s := b.Status; err == nil && (s.DisruptionsAllowed != 2 || s.ExpectedPods != 4 || s.CurrentHealthy != 4 || s.DesiredHealthy != 2 || s.ObservedGeneration != b.Generation) {
			err = fmt.Errorf("status %+v", s)
		}
		return err
	})
}

func TestAggregatedRoleFollowsItsParts(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	roles := w.RbacV1().ClusterRoles()
	all := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}, AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "all"}}}}}
	part := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "part", Labels: map[string]string{"to": "all"}}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}}}}
	for _, role := range []*rbacv1.ClusterRole{all, part} {
		if _, err := roles.Create(ctx, role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	rules := func(want int) func() error {
		return func() error {
			role, err := roles.Get(ctx, "all", metav1.GetOptions{})
			if err == nil && len(role.Rules) != want {
				err = fmt.Errorf("rules %v", role.Rules)
			}
			return err
		}
	}
	w.eventually("the rule of the part", rules(1))
	if err := roles.Delete(ctx, "part", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("no rule", rules(0))
}

func TestQuotaGivesBackWhatIsDeleted(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	hard := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{"pods", "services", "configmaps", "count/replicasets.apps", "requests.cpu"} {
		hard[name] = resource.MustParse("10")
	}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
	if _, err := w.CoreV1().ResourceQuotas(w.namespace).Create(ctx, quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(want map[corev1.ResourceName]string) {
		t.Helper()
		w.eventually("usage", func() error {
			q, err := w.CoreV1().ResourceQuotas(w.namespace).Get(ctx, "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for name, amount := range want {
				if got, ok := q.Status.Used[name]; !ok || got.Cmp(resource.MustParse(amount)) != 0 {
					return fmt.Errorf("%s: %s, want %s", name, got.String(), amount)
				}
			}
			return nil
		})
	}
	used(map[corev1.ResourceName]string{"pods": "0", "services": "0", "configmaps": "1", "count/replicasets.apps": "0", "requests.cpu": "0"})
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr(int32(2)), Selector: selector("web"), Template: template("web", "x")}}
	set.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	if _, err := w.AppsV1().ReplicaSets(w.namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used(map[corev1.ResourceName]string{"pods": "2", "count/replicasets.apps": "1", "requests.cpu": "200m"})
	if err := w.AppsV1().ReplicaSets(w.namespace).Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used(map[corev1.ResourceName]string{"pods": "0", "count/replicasets.apps": "0", "requests.cpu": "0"})
}

func TestCronJobStartsWhatIsDue(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	crons := w.BatchV1().CronJobs(w.namespace)
	cron := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "tick"}, Spec: batchv1.CronJobSpec{Schedule: "*/1 * * * ?", Suspend: ptr(true)}}
	cron.Spec.JobTemplate.Spec.Template.Spec = template("tick", "ok").Spec
	cron.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if _, err := crons.Create(ctx, cron, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * time.Minute).UTC().Format(time.RFC3339)
	if _, err := crons.Patch(ctx, "tick", types.MergePatchType, []byte(`{"status":{"lastScheduleTime":"`+past+`"}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	if _, err := crons.Patch(ctx, "tick", types.MergePatchType, []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("a job that succeeded", func() error {
		c, err := crons.Get(ctx, "tick", metav1.GetOptions{})
		if err == nil && (c.Status.LastSuccessfulTime == nil || len(c.Status.Active) > 0) {
			err = fmt.Errorf("status %+v", c.Status)
		}
		return err
	})
	jobs, err := w.BatchV1().Jobs(w.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs.Items) == 0 || jobs.Items[0].Annotations[batchv1.CronJobScheduledTimestampAnnotation] == "" {
		t.Errorf("jobs: got %d, want one with the time it was scheduled for", len(jobs.Items))
	}
}

func TestClaimsOutliveTheirPods(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	set := withData(1)
	if _, err := w.AppsV1().StatefulSets(w.namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claims := w.CoreV1().PersistentVolumeClaims(w.namespace)
	w.eventually("a running pod", func() error {
		pod, err := w.CoreV1().Pods(w.namespace).Get(ctx, "db-0", metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("phase %s", pod.Status.Phase)
		}
		return err
	})
	claim, err := claims.Get(ctx, "data-db-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(claim.Finalizers, "kubernetes.io/pvc-protection") {
		t.Errorf("finalizers: got %v", claim.Finalizers)
	}
	if err := claims.Delete(ctx, claim.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if _, err := claims.Get(ctx, claim.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("a claim went while a pod used it: %v", err)
	}
	if err := w.AppsV1().StatefulSets(w.namespace).Delete(ctx, "db", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the claim", func() error {
		_, err := claims.Get(ctx, claim.Name, metav1.GetOptions{})
		return gone(err)
	})
}

// withData is a StatefulSet whose pods have a claim each.
func withData(replicas int32) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, ServiceName: "db", Selector: selector("db"), Template: template("db", "x"),
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}},
	}}
}

func TestClaimsGoWithPodsScaledAway(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	set := withData(2)
	set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType}
	if _, err := w.AppsV1().StatefulSets(w.namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	claims := func(want int) func() error {
		return func() error {
			list, err := w.CoreV1().PersistentVolumeClaims(w.namespace).List(ctx, metav1.ListOptions{})
			if err == nil && len(list.Items) != want {
				err = fmt.Errorf("got %d claims, want %d", len(list.Items), want)
			}
			return err
		}
	}
	w.eventually("two pods that are available", func() error {
		set, err := w.AppsV1().StatefulSets(w.namespace).Get(ctx, "db", metav1.GetOptions{})
		if err == nil && set.Status.AvailableReplicas != 2 {
			err = fmt.Errorf("status %+v", set.Status)
		}
		return err
	})
	w.eventually("a claim for each", claims(2))
	if _, err := w.AppsV1().StatefulSets(w.namespace).Patch(ctx, "db", types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the claims", claims(0))
}

func TestPoliciesAreTypeChecked(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	w.defineKinds()
	policies := w.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	rule := func(group, version string, resources ...string) admissionregistrationv1.NamedRuleWithOperations {
		return admissionregistrationv1.NamedRuleWithOperations{RuleWithOperations: admissionregistrationv1.RuleWithOperations{Operations: []admissionregistrationv1.OperationType{"CREATE"},
			Rule: admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{version}, Resources: resources}}}
	}
	for _, c := range []struct {
		name  string
		rules []admissionregistrationv1.NamedRuleWithOperations
		spec  admissionregistrationv1.ValidatingAdmissionPolicySpec
		want  []admissionregistrationv1.ExpressionWarning
	}{
		{"right", []admissionregistrationv1.NamedRuleWithOperations{rule("apps", "v1", "deployments", "replicasets")}, admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Variables: []admissionregistrationv1.Variable{{Name: "n", Expression: "object.spec.replicas"}}, Validations: []admissionregistrationv1.Validation{{Expression: "variables.n > 1", MessageExpression: "string(variables.n) + object.metadata.name"}}}, nil},
		{"wrong", []admissionregistrationv1.NamedRuleWithOperations{rule("apps", "v1", "deployments", "replicasets/*", "replicasets")}, admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Validations: []admissionregistrationv1.Validation{{Expression: "true"}, {Expression: "object.spec.strategy.type == 'x' || object.odd > 1", MessageExpression: "string(object.spec.replicas > '1')"}}},
			[]admissionregistrationv1.ExpressionWarning{
				{FieldRef: "spec.validations[1].expression", Warning: "apps/v1, Kind=Deployment: ERROR: <input>:1:43: undefined field 'odd'\n | object.spec.strategy.type == 'x' || object.odd > 1\n | ..........................................^\n\n" +
					"apps/v1, Kind=ReplicaSet: ERROR: <input>:1:12: undefined field 'strategy'\n | object.spec.strategy.type == 'x' || object.odd > 1\n | ...........^\nERROR: <input>:1:43: undefined field 'odd'\n | object.spec.strategy.type == 'x' || object.odd > 1\n | ..........................................^\n"},
				{FieldRef: "spec.validations[1].messageExpression", Warning: "apps/v1, Kind=Deployment: ERROR: <input>:1:29: found no matching overload for '_>_' applied to '(int, string)'\n | string(object.spec.replicas > '1')\n | ............................^\n\n" +
					"apps/v1, Kind=ReplicaSet: ERROR: <input>:1:29: found no matching overload for '_>_' applied to '(int, string)'\n | string(object.spec.replicas > '1')\n | ............................^\n"},
			}},
		{"custom", []admissionregistrationv1.NamedRuleWithOperations{rule("example.com", "v1", "rules")}, admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind:   &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			Validations: []admissionregistrationv1.Validation{{Expression: "object.max == params.data.max"}}},
			[]admissionregistrationv1.ExpressionWarning{{FieldRef: "spec.validations[0].expression", Warning: "example.com/v1, Kind=Rule: ERROR: <input>:1:12: found no matching overload for '_==_' applied to '(int, string)'\n | object.max == params.data.max\n | ...........^\n"}}},
		{"anything", []admissionregistrationv1.NamedRuleWithOperations{rule("*", "v1", "rules"), rule("none.example.com", "v1", "rules")}, admissionregistrationv1.ValidatingAdmissionPolicySpec{
			Validations: []admissionregistrationv1.Validation{{Expression: "object.odd == 1"}}}, nil},
	} {
		p := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: c.name}, Spec: c.spec}
		p.Spec.MatchConstraints = &admissionregistrationv1.MatchResources{ResourceRules: c.rules}
		if _, err := policies.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.eventually("the warnings about "+c.name, func() error {
			p, err := policies.Get(ctx, c.name, metav1.GetOptions{})
			if err == nil && (p.Status.ObservedGeneration != 1 || p.Status.TypeChecking == nil || !equality.Semantic.DeepEqual(p.Status.TypeChecking.ExpressionWarnings, c.want)) {
				err = fmt.Errorf("status %+v", p.Status)
			}
			return err
		})
	}
}

// defineKinds makes a custom resource of group example.com and waits until it is served.
func (w *world) defineKinds() {
	w.t.Helper()
	const definition = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "rules.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
		"names": {"plural": "rules", "kind": "Rule"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"max": {"type": "integer"}}}}}]}}`
	client := w.CoreV1().RESTClient()
	if err := client.Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").Body([]byte(definition)).Do(w.t.Context()).Error(); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the custom resource", func() error { return client.Get().AbsPath("/apis/example.com/v1/rules").Do(w.t.Context()).Error() })
}
