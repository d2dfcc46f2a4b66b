package podspec

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The forms of names of iSCSI initiators and targets, by how they begin
// (RFC 3720, section 3.2.6.3).
var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func (v *validator) checkISCSIName(name string, at *field.Path) {
	for prefix, form := range iscsiNames {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if !form.MatchString(name) {
			v.invalid(at, name, "must be valid format")
		}
		return
	}
	v.invalid(at, name, "must be valid format starting with iqn, eui, or naa")
}

func (v *validator) checkISCSI(s *v1.ISCSIVolumeSource, at *field.Path) {
	v.need(at.Child("targetPortal"), s.TargetPortal)
	if v.need(at.Child("iqn"), s.IQN) {
		v.checkISCSIName(s.IQN, at.Child("iqn"))
	}
	if s.Lun < 0 || s.Lun > 255 {
		v.invalid(at.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		v.required(at.Child("secretRef"), "")
	}
	if s.InitiatorName != nil {
		v.checkISCSIName(*s.InitiatorName, at.Child("initiatorname"))
	}
}

func (v *validator) checkFC(s *v1.FCVolumeSource, at *field.Path) {
	wwns := at.Child("targetWWNs")
	if len(s.TargetWWNs) == 0 && len(s.WWIDs) == 0 {
		v.required(wwns, "must specify either targetWWNs or wwids, but not both")
	}
	if len(s.TargetWWNs) == 0 {
		return
	}
	if len(s.WWIDs) > 0 {
		v.invalid(wwns, s.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously")
	}
	if s.Lun == nil {
		v.required(at.Child("lun"), "lun is required if targetWWNs is specified")
	} else if *s.Lun < 0 || *s.Lun > 255 {
		v.invalid(at.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255))
	}
}

func (v *validator) checkFlocker(s *v1.FlockerVolumeSource, at *field.Path) {
	switch name, uuid := s.DatasetName != "", s.DatasetUUID != ""; {
	case !name && !uuid:
		v.required(at, "one of datasetName and datasetUUID is required")
	case name && uuid:
		v.invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously")
	}
	if strings.Contains(s.DatasetName, "/") {
		v.invalid(at.Child("datasetName"), s.DatasetName, "must not contain '/'")
	}
}

func (v *validator) checkQuobyte(s *v1.QuobyteVolumeSource, at *field.Path) {
	const detail = "must be a host:port pair or multiple pairs separated by commas"
	registry := at.Child("registry")
	switch {
	case s.Registry == "":
		v.required(registry, detail)
	case len(s.Tenant) > 64:
		v.required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters")
	default:
		for pair := range strings.SplitSeq(s.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				v.invalid(registry, s.Registry, detail)
			}
		}
	}
	v.need(at.Child("volume"), s.Volume)
}

func (v *validator) checkFlex(s *v1.FlexVolumeSource, at *field.Path) {
	v.need(at.Child("driver"), s.Driver)
	for _, key := range slices.Sorted(maps.Keys(s.Options)) {
		namespace, _, _ := strings.Cut(key, "/")
		namespace = "." + strings.ToLower(namespace)
		if strings.HasSuffix(namespace, ".kubernetes.io") || strings.HasSuffix(namespace, ".k8s.io") {
			v.invalid(at.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved")
		}
	}
}

func (v *validator) checkAzureDisk(s *v1.AzureDiskVolumeSource, at *field.Path) {
	v.need(at.Child("diskName"), s.DiskName)
	v.need(at.Child("diskURI"), s.DataDiskURI)
	oneOf(v, at.Child("cachingMode"), *s.CachingMode, v1.AzureDataDiskCachingNone, v1.AzureDataDiskCachingReadOnly, v1.AzureDataDiskCachingReadWrite)
	oneOf(v, at.Child("kind"), *s.Kind, v1.AzureDedicatedBlobDisk, v1.AzureManagedDisk, v1.AzureSharedBlobDisk)
	scheme, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *s.Kind == v1.AzureManagedDisk {
		scheme, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(s.DataDiskURI, scheme) {
		v.add(field.NotSupported(at.Child("diskURI"), s.DataDiskURI, []string{form}))
	}
}

// checkProjected checks a volume made of several sources; no two may write the
// same file.
func (v *validator) checkProjected(s *v1.ProjectedVolumeSource, at *field.Path) {
	v.checkMode(s.DefaultMode, at.Child("defaultMode"))
	files := make(map[string]bool)
	claim := func(file string, blame any) {
		if file == "" {
			return
		}
		if files[file] {
			v.invalid(at, blame, "conflicting duplicate paths")
		}
		files[file] = true
	}
	items := func(name string, items []v1.KeyToPath, at *field.Path) {
		v.need(at.Child("name"), name)
		for i := range items {
			v.checkKeyToPath(&items[i], at.Child("items").Index(i))
			claim(items[i].Path, name)
		}
	}
	for i := range s.Sources {
		source, item, count := &s.Sources[i], at.Child("sources").Index(i), 0
		if source.Secret != nil {
			count++
			items(source.Secret.Name, source.Secret.Items, item.Child("secret"))
		}
		if source.ConfigMap != nil {
			count++
			items(source.ConfigMap.Name, source.ConfigMap.Items, item.Child("configMap"))
		}
		if source.DownwardAPI != nil {
			count++
			for k := range source.DownwardAPI.Items {
				file := &source.DownwardAPI.Items[k]
				v.checkDownwardFile(file, item.Child("downwardAPI"))
				claim(file.Path, file.Path)
			}
		}
		if source.ServiceAccountToken != nil {
			count++
			v.checkToken(source.ServiceAccountToken, at, item.Child("serviceAccountToken"))
		}
		if count > 1 {
			v.forbidden(item, "may not specify more than 1 volume type per source")
		}
	}
}

func (v *validator) checkToken(s *v1.ServiceAccountTokenProjection, volume, at *field.Path) {
	const shortest, longest = 10 * 60, 1 << 32 // seconds
	expiration := at.Child("expirationSeconds")
	if *s.ExpirationSeconds < shortest {
		v.invalid(expiration, *s.ExpirationSeconds, "may not specify a duration less than 10 minutes")
	}
	if *s.ExpirationSeconds > longest {
		v.invalid(expiration, *s.ExpirationSeconds, fmt.Sprintf("may not specify a duration larger than 2^%d seconds", 32))
	}
	if v.need(volume.Child("path"), s.Path) && !v.opts.BadTokenPath {
		v.fileInVolume(s.Path, volume.Child("path"))
	}
}
