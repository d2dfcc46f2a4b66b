package podspec

import (
	"cmp"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// DefaultTemplate fills what a client left out of a pod template.
func DefaultTemplate(t *v1.PodTemplateSpec) {
	t.Annotations = DropInitAnnotations(t.Annotations)
	DefaultSpec(&t.Spec)
}

// DefaultSpec fills what a client left out of the spec of a pod or a pod
// template. Defaults that only pods get are not here: they would show up as
// changes in every workload that was stored before they existed.
func DefaultSpec(s *v1.PodSpec) {
	set(&s.DNSPolicy, v1.DNSClusterFirst)
	set(&s.RestartPolicy, v1.RestartPolicyAlways)
	set(&s.SchedulerName, v1.DefaultSchedulerName)
	SetDefault(&s.SecurityContext, v1.PodSecurityContext{})
	SetDefault(&s.TerminationGracePeriodSeconds, int64(v1.DefaultTerminationGracePeriodSeconds))
	s.ServiceAccountName = cmp.Or(s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i])
	}
	containers(s, defaultContainer)
	roundUp(s.Overhead)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
}

func defaultContainer(c *v1.Container) {
	setPullPolicy(&c.ImagePullPolicy, c.Image)
	set(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	set(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	for i := range c.Ports {
		set(&c.Ports[i].Protocol, v1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				SetDefault(&from.FileKeyRef.Optional, false)
			}
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if c.Lifecycle != nil {
		for _, h := range []*v1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

func defaultProbe(p *v1.Probe) {
	if p == nil {
		return
	}
	set(&p.TimeoutSeconds, 1)
	set(&p.PeriodSeconds, 10)
	set(&p.SuccessThreshold, 1)
	set(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		SetDefault(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(a *v1.HTTPGetAction) {
	if a == nil {
		return
	}
	set(&a.Path, "/")
	set(&a.Scheme, v1.URISchemeHTTP)
}

func defaultFieldRef(r *v1.ObjectFieldSelector) {
	if r != nil {
		set(&r.APIVersion, "v1")
	}
}

func defaultVolume(v *v1.Volume) {
	s := &v.VolumeSource
	if *s == (v1.VolumeSource{}) {
		s.EmptyDir = &v1.EmptyDirVolumeSource{}
	}
	if s.HostPath != nil {
		SetDefault(&s.HostPath.Type, v1.HostPathUnset)
	}
	if s.Secret != nil {
		SetDefault(&s.Secret.DefaultMode, v1.SecretVolumeSourceDefaultMode)
	}
	if s.ConfigMap != nil {
		SetDefault(&s.ConfigMap.DefaultMode, v1.ConfigMapVolumeSourceDefaultMode)
	}
	if s.DownwardAPI != nil {
		SetDefault(&s.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode)
		for i := range s.DownwardAPI.Items {
			defaultFieldRef(s.DownwardAPI.Items[i].FieldRef)
		}
	}
	if s.Projected != nil {
		defaultProjected(s.Projected)
	}
	if s.Image != nil {
		setPullPolicy(&s.Image.PullPolicy, s.Image.Reference)
	}
	if s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil {
		DefaultClaimSpec(&s.Ephemeral.VolumeClaimTemplate.Spec)
	}
	defaultLegacyVolume(s)
}

func defaultProjected(p *v1.ProjectedVolumeSource) {
	SetDefault(&p.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
	for i := range p.Sources {
		src := &p.Sources[i]
		if src.DownwardAPI != nil {
			for j := range src.DownwardAPI.Items {
				defaultFieldRef(src.DownwardAPI.Items[j].FieldRef)
			}
		}
		if src.ServiceAccountToken != nil {
			SetDefault(&src.ServiceAccountToken.ExpirationSeconds, 3600)
		}
	}
}

// DefaultAzureDisk fills a source that volumes of pods and persistent ones share.
func DefaultAzureDisk(v *v1.AzureDiskVolumeSource) {
	SetDefault(&v.CachingMode, v1.AzureDataDiskCachingReadWrite)
	SetDefault(&v.FSType, "ext4")
	SetDefault(&v.ReadOnly, false)
	SetDefault(&v.Kind, v1.AzureSharedBlobDisk)
}

// defaultLegacyVolume fills the sources whose drivers have left Kubernetes; the
// API still describes them.
func defaultLegacyVolume(s *v1.VolumeSource) {
	if v := s.ISCSI; v != nil {
		set(&v.ISCSIInterface, "default")
	}
	if v := s.RBD; v != nil {
		set(&v.RBDPool, "rbd")
		set(&v.RadosUser, "admin")
		set(&v.Keyring, "/etc/ceph/keyring")
	}
	if v := s.AzureDisk; v != nil {
		DefaultAzureDisk(v)
	}
	if v := s.ScaleIO; v != nil {
		set(&v.StorageMode, "ThinProvisioned")
		set(&v.FSType, "xfs")
	}
}

// DefaultClaimSpec fills what a client left out of a persistent volume claim or
// of a template of one.
func DefaultClaimSpec(s *v1.PersistentVolumeClaimSpec) {
	SetDefault(&s.VolumeMode, v1.PersistentVolumeFilesystem)
	roundUp(s.Resources.Limits)
	roundUp(s.Resources.Requests)
}

// roundUp raises every quantity to a multiple of a thousandth, the finest the
// API keeps.
func roundUp(list v1.ResourceList) {
	for name, q := range list {
		if !q.RoundUp(resource.Milli) {
			list[name] = q
		}
	}
}

// set gives a zero field its default.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// SetDefault gives an absent field its default.
func SetDefault[T any](field **T, value T) {
	if *field == nil {
		own := value // so that only what is absent costs memory: most is there, of objects that are read
		*field = &own
	}
}
