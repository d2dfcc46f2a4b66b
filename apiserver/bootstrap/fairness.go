package bootstrap

import (
	"cmp"
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auth "k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// level is a row of the priority levels. One without queues refuses what is too
// much; one without shares limits nothing.
type level struct {
	name                  string
	shares, lendable      int32
	queues, hands, length int32
}

var levels = []level{
	{name: "exempt"},
	{name: "node-high", shares: 40, lendable: 25, queues: 64, hands: 6, length: 50},
	{name: "system", shares: 30, lendable: 33, queues: 64, hands: 6, length: 50},
	{name: "leader-election", shares: 10, queues: 16, hands: 4, length: 50},
	{name: "workload-high", shares: 40, lendable: 50, queues: 128, hands: 6, length: 50},
	{name: "workload-low", shares: 100, lendable: 90, queues: 128, hands: 6, length: 50},
	{name: "global-default", shares: 20, lendable: 50, queues: 128, hands: 6, length: 50},
	{name: "catch-all", shares: 5},
}

// flow is a row of the flow schemas, in the order in which requests are
// matched. level is that of its own name if none is given.
type flow struct {
	name, level string
	precedence  int32
	by          flowcontrolv1.FlowDistinguisherMethodType
	subjects    []flowcontrolv1.Subject
	resources   []flowcontrolv1.ResourcePolicyRule
	paths       []string
}

var everyResource = []flowcontrolv1.ResourcePolicyRule{{
	Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"},
}}

func leases(verbs ...string) flowcontrolv1.ResourcePolicyRule {
	return flowcontrolv1.ResourcePolicyRule{Verbs: verbs, APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Namespaces: []string{"*"}}
}

var (
	everyPath     = []string{"*"}
	everybody     = []flowcontrolv1.Subject{flowGroup(auth.AllUnauthenticated), flowGroup(auth.AllAuthenticated)}
	systemAccount = flowcontrolv1.Subject{
		Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: metav1.NamespaceSystem, Name: "*"},
	}
	byUser, byNamespace = flowcontrolv1.FlowDistinguisherMethodByUserType, flowcontrolv1.FlowDistinguisherMethodByNamespaceType
)

var flows = []flow{
	{name: "exempt", precedence: 1, subjects: []flowcontrolv1.Subject{flowGroup(auth.SystemPrivilegedGroup)}, resources: everyResource, paths: everyPath},
	{name: "probes", level: "exempt", precedence: 2, subjects: everybody, paths: []string{"/healthz", "/readyz", "/livez"}},
	{name: "system-leader-election", level: "leader-election", precedence: 100, by: byUser,
		subjects:  []flowcontrolv1.Subject{flowUser(auth.KubeControllerManager), flowUser(auth.KubeScheduler), systemAccount},
		resources: []flowcontrolv1.ResourcePolicyRule{leases("get", "create", "update")}},
	{name: "system-node-high", level: "node-high", precedence: 400, by: byUser, subjects: []flowcontrolv1.Subject{flowGroup(auth.NodesGroup)},
		resources: []flowcontrolv1.ResourcePolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"nodes", "nodes/status"}, ClusterScope: true, Namespaces: []string{"*"}},
			leases("*"),
		}},
	{name: "system-nodes", level: "system", precedence: 500, by: byUser, subjects: []flowcontrolv1.Subject{flowGroup(auth.NodesGroup)}, resources: everyResource, paths: everyPath},
	{name: "kube-controller-manager", level: "workload-high", precedence: 800, by: byNamespace,
		subjects: []flowcontrolv1.Subject{flowUser(auth.KubeControllerManager)}, resources: everyResource, paths: everyPath},
	{name: "kube-scheduler", level: "workload-high", precedence: 800, by: byNamespace,
		subjects: []flowcontrolv1.Subject{flowUser(auth.KubeScheduler)}, resources: everyResource, paths: everyPath},
	{name: "kube-system-service-accounts", level: "workload-high", precedence: 900, by: byNamespace,
		subjects: []flowcontrolv1.Subject{systemAccount}, resources: everyResource, paths: everyPath},
	{name: "service-accounts", level: "workload-low", precedence: 9000, by: byUser,
		subjects: []flowcontrolv1.Subject{flowGroup("system:serviceaccounts")}, resources: everyResource, paths: everyPath},
	{name: "global-default", precedence: 9900, by: byUser, subjects: everybody, resources: everyResource, paths: everyPath},
	{name: "catch-all", precedence: 10000, by: byUser, subjects: everybody, resources: everyResource, paths: everyPath},
}

func flowUser(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}}
}

func flowGroup(name string) flowcontrolv1.Subject {
	return flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}}
}

// fairness are the default priority levels and flow schemas.
func fairness() []object {
	var list []object
	for _, l := range levels {
		list = append(list, l.object())
	}
	for _, f := range flows {
		list = append(list, f.object())
	}
	return list
}

// flowUpdate is the annotation by which an administrator lets a default object
// be kept as it is here, by setting it to false.
const flowUpdate = "apf.kubernetes.io/autoupdate-spec"

func flowMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowUpdate: "true"}}
}

// PriorityLevels are those of every cluster.
func PriorityLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	var list []*flowcontrolv1.PriorityLevelConfiguration
	for _, l := range levels {
		list = append(list, l.configuration())
	}
	return list
}

// FlowSchemas are those of every cluster.
func FlowSchemas() []*flowcontrolv1.FlowSchema {
	var list []*flowcontrolv1.FlowSchema
	for _, f := range flows {
		list = append(list, f.schema())
	}
	return list
}

func (l level) configuration() *flowcontrolv1.PriorityLevelConfiguration {
	return &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: flowMeta(l.name), Spec: l.spec()}
}

func (l level) object() object {
	want := l.configuration()
	return object{group: flowcontrolv1.GroupName, plural: "prioritylevelconfigurations", want: want, repair: func(have resource.Object) bool {
		o := have.(*flowcontrolv1.PriorityLevelConfiguration)
		if o.Annotations[flowUpdate] != "true" || equality.Semantic.DeepEqual(o.Spec, want.Spec) {
			return false
		}
		o.Spec = *want.Spec.DeepCopy()
		return true
	}}
}

func (l level) spec() flowcontrolv1.PriorityLevelConfigurationSpec {
	if l.shares == 0 {
		return flowcontrolv1.PriorityLevelConfigurationSpec{
			Type:   flowcontrolv1.PriorityLevelEnablementExempt,
			Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: ptr.To(int32(0)), LendablePercent: ptr.To(int32(0))},
		}
	}
	response := flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	if l.queues > 0 {
		response = flowcontrolv1.LimitResponse{
			Type:    flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: l.queues, HandSize: l.hands, QueueLengthLimit: l.length},
		}
	}
	return flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To(l.shares), LendablePercent: ptr.To(l.lendable), LimitResponse: response,
		},
	}
}

// levelName is the level of its requests.
func (f flow) levelName() string { return cmp.Or(f.level, f.name) }

func (f flow) schema() *flowcontrolv1.FlowSchema {
	rule := flowcontrolv1.PolicyRulesWithSubjects{Subjects: f.subjects, ResourceRules: f.resources}
	if len(f.paths) > 0 {
		verb := "get"
		if f.paths[0] == "*" {
			verb = "*"
		}
		rule.NonResourceRules = []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{verb}, NonResourceURLs: f.paths}}
	}
	schema := &flowcontrolv1.FlowSchema{ObjectMeta: flowMeta(f.name), Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: f.levelName()},
		MatchingPrecedence:         f.precedence,
		Rules:                      []flowcontrolv1.PolicyRulesWithSubjects{rule},
	}}
	if f.by != "" {
		schema.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: f.by}
	}
	return schema
}

func (f flow) object() object {
	want := f.schema()
	return object{group: flowcontrolv1.GroupName, plural: "flowschemas", want: want, repair: func(have resource.Object) (changed bool) {
		o := have.(*flowcontrolv1.FlowSchema)
		if o.Annotations[flowUpdate] == "true" && !equality.Semantic.DeepEqual(o.Spec, want.Spec) {
			o.Spec, changed = *want.Spec.DeepCopy(), true
		}
		// All levels named here exist: they are made together.
		if len(o.Status.Conditions) == 0 {
			o.Status.Conditions, changed = []flowcontrolv1.FlowSchemaCondition{{
				Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse,
				LastTransitionTime: metav1.Now(), Reason: "Found",
				Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", f.levelName()),
			}}, true
		}
		return changed
	}}
}
