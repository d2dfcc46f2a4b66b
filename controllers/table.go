package controllers

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skiff-k8s/skiff/controllers/autoscaling"
	"github.com/skiff-k8s/skiff/controllers/certificates"
	"github.com/skiff-k8s/skiff/controllers/devices"
	"github.com/skiff-k8s/skiff/controllers/garbage"
	"github.com/skiff-k8s/skiff/controllers/namespaces"
	"github.com/skiff-k8s/skiff/controllers/nodes"
	"github.com/skiff-k8s/skiff/controllers/policy"
	"github.com/skiff-k8s/skiff/controllers/services"
	"github.com/skiff-k8s/skiff/controllers/storage"
	"github.com/skiff-k8s/skiff/controllers/tokens"
	"github.com/skiff-k8s/skiff/controllers/workloads"
	"github.com/skiff-k8s/skiff/serviceaccount"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// row describes a controller: it is made if the server serves what it needs. A nil runner means that the
// configuration leaves it nothing to do.
type row struct {
	name  string
	needs []schema.GroupVersionResource
	make  func(m *Manager) (runner, error)
}

// table lists all controllers. They run at the same time; the order is that of reading.
var table = []row{
	{"namespace", core("namespaces", "pods"), func(m *Manager) (runner, error) {
		return namespaces.Namespace(m.namespaces()), nil
	}},
	{"serviceaccount", core("namespaces", "serviceaccounts"), func(m *Manager) (runner, error) {
		return namespaces.ServiceAccount(m.namespaces()), nil
	}},
	{"root-ca", core("namespaces", "configmaps"), func(m *Manager) (runner, error) {
		if len(m.config.RootCA) == 0 {
			return nil, nil
		}
		return namespaces.RootCA(m.namespaces(), m.config.RootCA), nil
	}},
	{"serviceaccount-token", core("serviceaccounts", "secrets"), func(m *Manager) (runner, error) {
		if len(m.config.ServiceAccountKey) == 0 {
			return nil, nil
		}
		key, err := serviceaccount.ParseKey(m.config.ServiceAccountKey)
		if err != nil {
			return nil, fmt.Errorf("service account key: %w", err)
		}
		return made(tokens.Tokens(m.tokens(), key, m.config.RootCA))
	}},
	{"legacy-serviceaccount-token-cleaner", core("serviceaccounts", "secrets", "pods", "configmaps"), func(m *Manager) (runner, error) {
		return tokens.Cleaner(m.tokens(), m.config.LegacyTokenPeriod), nil
	}},
	{"replicaset", append(apps("replicasets"), core("pods")...), func(m *Manager) (runner, error) {
		return made(workloads.ReplicaSet(m.workloads()))
	}},
	{"replicationcontroller", core("replicationcontrollers", "pods"), func(m *Manager) (runner, error) {
		return made(workloads.ReplicationController(m.workloads()))
	}},
	{"deployment", append(apps("deployments", "replicasets"), core("pods")...), func(m *Manager) (runner, error) {
		return made(workloads.Deployment(m.workloads()))
	}},
	{"daemonset", append(apps("daemonsets", "controllerrevisions"), core("pods", "nodes")...), func(m *Manager) (runner, error) {
		return made(workloads.DaemonSet(m.workloads()))
	}},
	{"statefulset", append(apps("statefulsets", "controllerrevisions"), core("pods", "persistentvolumeclaims")...), func(m *Manager) (runner, error) {
		return made(workloads.StatefulSet(m.workloads()))
	}},
	{"job", append(batch("jobs"), core("pods")...), func(m *Manager) (runner, error) {
		return made(workloads.Job(m.workloads()))
	}},
	{"job-orphans", append(batch("jobs"), core("pods")...), func(m *Manager) (runner, error) {
		return made(workloads.JobOrphans(m.workloads()))
	}},
	{"ttl-after-finished", batch("jobs"), func(m *Manager) (runner, error) {
		return workloads.TTLAfterFinished(m.workloads()), nil
	}},
	{"cronjob", batch("cronjobs", "jobs"), func(m *Manager) (runner, error) {
		return made(workloads.CronJob(m.workloads()))
	}},
	{"horizontalpodautoscaler", append(in(autoscalingv2.SchemeGroupVersion, "horizontalpodautoscalers"), core("pods")...), func(m *Manager) (runner, error) {
		if m.config.API == nil {
			return nil, nil
		}
		return made(autoscaling.Horizontal(m.autoscaling()))
	}},
	{"disruption", slices.Concat(in(policyv1.SchemeGroupVersion, "poddisruptionbudgets"), core("pods", "replicationcontrollers"), apps("replicasets", "deployments", "statefulsets")), func(m *Manager) (runner, error) {
		return policy.Disruption(m.policy()), nil
	}},
	{"clusterrole-aggregation", in(rbacv1.SchemeGroupVersion, "clusterroles"), func(m *Manager) (runner, error) {
		return policy.ClusterRole(m.policy()), nil
	}},
	{"validatingadmissionpolicy-status", in(admissionregistrationv1.SchemeGroupVersion, "validatingadmissionpolicies"), func(m *Manager) (runner, error) {
		return policy.TypeChecking(m.policy()), nil
	}},
	{"volume-binder", append(in(storagev1.SchemeGroupVersion, "storageclasses"), core("persistentvolumeclaims", "persistentvolumes")...), func(m *Manager) (runner, error) {
		return storage.Binder(m.storage()), nil
	}},
	{"local-volumes", append(in(storagev1.SchemeGroupVersion, "storageclasses"), core("persistentvolumeclaims", "persistentvolumes", "nodes")...), func(m *Manager) (runner, error) {
		return storage.LocalProvisioner(m.storage(), m.config.NodeVolumes), nil
	}},
	{"ephemeral-claims", core("persistentvolumeclaims", "pods"), func(m *Manager) (runner, error) {
		return storage.EphemeralClaims(m.storage()), nil
	}},
	{"resource-claims", append(inResource("resourceclaims", "resourceclaimtemplates"), core("pods")...), func(m *Manager) (runner, error) {
		return made(devices.PodClaims(m.devices()))
	}},
	{"resource-claim-reservations", append(inResource("resourceclaims"), core("pods")...), func(m *Manager) (runner, error) {
		return devices.Reservations(m.devices()), nil
	}},
	{"device-taint-eviction", append(inResource("resourceclaims", "resourceslices"), core("pods")...), func(m *Manager) (runner, error) {
		return made(devices.TaintEviction(m.devices()))
	}},
	{"certificate-signer", in(certificatesv1.SchemeGroupVersion, "certificatesigningrequests"), func(m *Manager) (runner, error) {
		if len(m.config.SigningKey) == 0 {
			return nil, nil
		}
		authority, err := certificates.NewAuthority(m.config.SigningCA, m.config.SigningKey)
		if err != nil {
			return nil, fmt.Errorf("authority that signs: %w", err)
		}
		return certificates.Signer(m.certificates(), authority), nil
	}},
	{"certificate-approver", in(certificatesv1.SchemeGroupVersion, "certificatesigningrequests"), func(m *Manager) (runner, error) {
		return certificates.Approver(m.certificates()), nil
	}},
	{"certificate-cleaner", in(certificatesv1.SchemeGroupVersion, "certificatesigningrequests"), func(m *Manager) (runner, error) {
		return certificates.Cleaner(m.certificates()), nil
	}},
	{"pvc-protection", core("persistentvolumeclaims", "pods"), func(m *Manager) (runner, error) {
		return storage.ClaimProtection(m.storage()), nil
	}},
	{"pv-protection", core("persistentvolumes"), func(m *Manager) (runner, error) {
		return storage.VolumeProtection(m.storage()), nil
	}},
	{"vac-protection", append(in(storagev1.SchemeGroupVersion, "volumeattributesclasses"), core("persistentvolumeclaims", "persistentvolumes")...), func(m *Manager) (runner, error) {
		return storage.AttributesClassProtection(m.storage()), nil
	}},
	{"endpoints", core("services", "endpoints", "pods"), func(m *Manager) (runner, error) {
		return services.Endpoints(m.services()), nil
	}},
	{"endpointslice", append(inDiscovery("endpointslices"), core("services", "pods", "nodes")...), func(m *Manager) (runner, error) {
		return services.EndpointSlice(m.services())
	}},
	{"endpointslice-mirroring", append(inDiscovery("endpointslices"), core("services", "endpoints")...), func(m *Manager) (runner, error) {
		return services.Mirror(m.services())
	}},
	{"service-cidr", in(networkingv1.SchemeGroupVersion, "servicecidrs", "ipaddresses"), func(m *Manager) (runner, error) {
		return services.ServiceCIDR(m.services()), nil
	}},
	{"load-balancer", slices.Concat(inDiscovery("endpointslices"), core("services", "nodes"), in(networkingv1.SchemeGroupVersion, "ingresses", "ingressclasses")), func(m *Manager) (runner, error) {
		if m.config.LoadBalancers.Off() {
			return nil, nil
		}
		return services.LoadBalancer(m.services(), m.config.LoadBalancers, m.config.Ingress)
	}},
	{"node-health", append(core("nodes", "pods"), in(coordinationv1.SchemeGroupVersion, "leases")...), func(m *Manager) (runner, error) {
		return made(nodes.Health(m.nodes(), m.config.NodeMonitorGrace))
	}},
	{"taint-eviction", core("nodes", "pods"), func(m *Manager) (runner, error) {
		return made(nodes.Eviction(m.nodes()))
	}},
	{"pod-gc", core("nodes", "pods"), func(m *Manager) (runner, error) {
		return made(nodes.PodGC(m.nodes(), m.config.TerminatedPodThreshold))
	}},
	{"node-cidr", core("nodes"), func(m *Manager) (runner, error) {
		if len(m.config.PodCIDRs) == 0 {
			return nil, nil
		}
		return nodes.CIDR(m.nodes(), m.config.shares()), nil
	}},
	{"garbage-collector", nil, func(m *Manager) (runner, error) {
		return m.collector, nil
	}},
	{"resourcequota", append(inResource("resourceclaims"), core("resourcequotas", "pods", "services", "persistentvolumeclaims")...), func(m *Manager) (runner, error) {
		return policy.Quota(m.policy(), m.collector), nil
	}},
}

// newCollector makes the garbage collector, which also counts objects for quotas.
func (m *Manager) newCollector() (*garbage.Collector, error) {
	return garbage.New(garbage.Config{
		Discovery:   m.config.Client.Discovery(),
		Metadata:    m.config.Metadata,
		Informers:   m.config.Informers,
		Shared:      m.shared(),
		Events:      m.recorder("garbage-collector-controller"),
		Workers:     4 * m.config.Concurrency,
		RereadEvery: m.config.DiscoveryPeriod,
	})
}

// shared lists the resources that controllers above watch in full, through the shared informers.
func (m *Manager) shared() []schema.GroupVersionResource {
	return slices.DeleteFunc(slices.Concat(
		core("namespaces", "serviceaccounts", "pods", "nodes", "replicationcontrollers", "resourcequotas", "services", "endpoints", "persistentvolumeclaims", "persistentvolumes"),
		inDiscovery("endpointslices"),
		apps("replicasets", "deployments", "daemonsets", "statefulsets", "controllerrevisions"),
		batch("jobs", "cronjobs"),
		in(networkingv1.SchemeGroupVersion, "servicecidrs", "ipaddresses", "ingresses", "ingressclasses"),
		in(autoscalingv2.SchemeGroupVersion, "horizontalpodautoscalers"),
		in(policyv1.SchemeGroupVersion, "poddisruptionbudgets"),
		in(admissionregistrationv1.SchemeGroupVersion, "validatingadmissionpolicies"),
		in(rbacv1.SchemeGroupVersion, "clusterroles"),
		in(certificatesv1.SchemeGroupVersion, "certificatesigningrequests"),
		in(storagev1.SchemeGroupVersion, "storageclasses", "volumeattributesclasses"),
		inResource("resourceclaims", "resourceclaimtemplates", "resourceslices"),
	), func(r schema.GroupVersionResource) bool { return !m.served[r] })
}

func core(resources ...string) []schema.GroupVersionResource {
	return in(corev1.SchemeGroupVersion, resources...)
}

func apps(resources ...string) []schema.GroupVersionResource {
	return in(appsv1.SchemeGroupVersion, resources...)
}

func batch(resources ...string) []schema.GroupVersionResource {
	return in(batchv1.SchemeGroupVersion, resources...)
}

func inDiscovery(resources ...string) []schema.GroupVersionResource {
	return in(discoveryv1.SchemeGroupVersion, resources...)
}

func inResource(resources ...string) []schema.GroupVersionResource {
	return in(resourcev1.SchemeGroupVersion, resources...)
}

func in(gv schema.GroupVersion, resources ...string) []schema.GroupVersionResource {
	all := make([]schema.GroupVersionResource, 0, len(resources))
	for _, r := range resources {
		all = append(all, gv.WithResource(r))
	}
	return all
}

// made turns a concrete controller into a runner, keeping an error an error.
func made[T runner](controller T, err error) (runner, error) {
	if err != nil {
		return nil, err
	}
	return controller, nil
}

func (m *Manager) namespaces() namespaces.Deps {
	return namespaces.Deps{Client: m.config.Client, Metadata: m.config.Metadata, Informers: m.config.Informers, Workers: m.config.Concurrency}
}

func (m *Manager) tokens() tokens.Deps {
	return tokens.Deps{Client: m.config.Client, Informers: m.config.Informers, Workers: m.config.Concurrency}
}

func (m *Manager) nodes() nodes.Deps {
	return nodes.Deps{Client: m.config.Client, Informers: m.config.Informers, Recorder: m.recorder, Workers: m.config.Concurrency}
}

func (m *Manager) services() services.Deps {
	return services.Deps{Client: m.config.Client, Informers: m.config.Informers, Recorder: m.recorder, Workers: m.config.Concurrency}
}

func (m *Manager) policy() policy.Deps {
	return policy.Deps{Client: m.config.Client, Informers: m.config.Informers, Recorder: m.recorder, Workers: m.config.Concurrency}
}

func (m *Manager) autoscaling() autoscaling.Deps {
	return autoscaling.Deps{
		Client: m.config.Client, API: m.config.API, Informers: m.config.Informers, Recorder: m.recorder, Workers: m.config.Concurrency,
		Period: m.config.AutoscalerPeriod,
	}
}

func (m *Manager) certificates() certificates.Deps {
	return certificates.Deps{Client: m.config.Client, Informers: m.config.Informers, Workers: m.config.Concurrency}
}

func (m *Manager) storage() storage.Deps {
	return storage.Deps{Client: m.config.Client, Informers: m.config.Informers, Recorder: m.recorder, Workers: m.config.Concurrency}
}

func (m *Manager) devices() devices.Deps {
	return devices.Deps{Client: m.config.Client, Informers: m.config.Informers, Recorder: m.recorder, Workers: m.config.Concurrency}
}

func (m *Manager) workloads() workloads.Deps {
	return workloads.Deps{Client: m.config.Client, Informers: m.config.Informers, Recorder: m.recorder, Workers: m.config.Concurrency}
}
