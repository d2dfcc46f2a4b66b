package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// wantsAudience reports whether a volume of pod needs a token for audience: because it projects one, or because the
// CSI driver of the volume asks for one. An error says why that could not be found out; a volume that needs the
// audience counts for more than one that could not be looked up.
func wantsAudience(ctx context.Context, c resource.Cluster, pod *corev1.Pod, audience string) (bool, error) {
	var errs []error
	for _, v := range pod.Spec.Volumes {
		if projectsAudience(v, audience) {
			return true, nil
		}
		driver, err := volumeDriver(ctx, c, pod, v)
		if err == nil && driver != "" {
			var asks bool
			if asks, err = driverAsks(ctx, c, driver, audience); asks {
				return true, nil
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return false, utilerrors.NewAggregate(errs)
}

func projectsAudience(v corev1.Volume, audience string) bool {
	if v.Projected == nil {
		return false
	}
	for _, s := range v.Projected.Sources {
		if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
			return true
		}
	}
	return false
}

// volumeDriver is the CSI driver that serves a volume of pod, empty if none does.
func volumeDriver(ctx context.Context, c resource.Cluster, pod *corev1.Pod, v corev1.Volume) (string, error) {
	switch {
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		return claimDriver(ctx, c, pod.Namespace, pod.Name+"-"+v.Name) // named so by KEP-1698
	case v.PersistentVolumeClaim != nil:
		return claimDriver(ctx, c, pod.Namespace, v.PersistentVolumeClaim.ClaimName)
	case v.CSI != nil:
		return v.CSI.Driver, nil
	}
	s := v.VolumeSource
	return migratedDriver(migrated{
		aws: s.AWSElasticBlockStore != nil, gce: s.GCEPersistentDisk != nil, cinder: s.Cinder != nil, azureDisk: s.AzureDisk != nil,
		azureFile: s.AzureFile != nil, vsphere: s.VsphereVolume != nil, portworx: s.PortworxVolume != nil,
	}), nil
}

func claimDriver(ctx context.Context, c resource.Cluster, namespace, name string) (string, error) {
	claim, err := read[*corev1.PersistentVolumeClaim](ctx, c, "", "persistentvolumeclaims", namespace, name)
	if err != nil {
		return "", err
	}
	volume, err := read[*corev1.PersistentVolume](ctx, c, "", "persistentvolumes", "", claim.Spec.VolumeName)
	if err != nil {
		return "", err
	}
	s := volume.Spec.PersistentVolumeSource
	if s.CSI != nil {
		return s.CSI.Driver, nil
	}
	return migratedDriver(migrated{
		aws: s.AWSElasticBlockStore != nil, gce: s.GCEPersistentDisk != nil, cinder: s.Cinder != nil, azureDisk: s.AzureDisk != nil,
		azureFile: s.AzureFile != nil, vsphere: s.VsphereVolume != nil, portworx: s.PortworxVolume != nil,
	}), nil
}

// migrated says which kind of old volume is set, of those that CSI drivers serve now (KEP-625). Volumes of pods and
// persistent volumes have types of their own for some of them.
type migrated struct{ aws, gce, cinder, azureDisk, azureFile, vsphere, portworx bool }

func migratedDriver(m migrated) string {
	switch {
	case m.aws:
		return "ebs.csi.aws.com"
	case m.gce:
		return "pd.csi.storage.gke.io"
	case m.cinder:
		return "cinder.csi.openstack.org"
	case m.azureDisk:
		return "disk.csi.azure.com"
	case m.azureFile:
		return "file.csi.azure.com"
	case m.vsphere:
		return "csi.vsphere.vmware.com"
	case m.portworx:
		return "pxd.portworx.com"
	}
	return ""
}

func driverAsks(ctx context.Context, c resource.Cluster, name, audience string) (bool, error) {
	driver, err := read[*storagev1.CSIDriver](ctx, c, storagev1.GroupName, "csidrivers", "", name)
	if err != nil {
		return false, err
	}
	for _, r := range driver.Spec.TokenRequests {
		if r.Audience == audience {
			return true, nil
		}
	}
	return false, nil
}

// read is get whose error names a missing object by the singular of its kind, as kube-apiserver's caches do.
func read[T resource.Object](ctx context.Context, c resource.Cluster, group, plural, namespace, name string) (T, error) {
	obj, err := get[T](ctx, c, group, plural, namespace, name)
	kind := c.Resource(group, plural)
	if apierrors.IsNotFound(err) && kind != nil {
		err = apierrors.NewNotFound(schema.GroupResource{Group: group, Resource: kind.Singular}, name)
	}
	return obj, err
}
