package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// records are what the kubelet keeps on disk of the images it pulls, in upstream's layout and format: an
// ImagePullIntent for each image that it began to pull, an ImagePulledRecord for each that it pulled.
type records struct{ intents, pulled string }

func openRecords(dir string) (records, error) {
	r := records{intents: filepath.Join(dir, "pulling"), pulled: filepath.Join(dir, "pulled")}
	return r, errors.Join(makeRecordDir(r.intents), makeRecordDir(r.pulled))
}

// makeRecordDir makes a directory for records and clears away what an earlier run did not finish.
func makeRecordDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(dir, recordPrefix+"*"+unfinished))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

const (
	recordPrefix = "sha256-"
	unfinished   = ".tmp"
)

// recordFile is the file of the record with a key, an image's name or the runtime's reference.
func recordFile(dir, key string) string {
	return filepath.Join(dir, fmt.Sprintf("%s%x", recordPrefix, sha256.Sum256([]byte(key))))
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: kubeletconfig.SchemeGroupVersion.String(), Kind: kind}
}

const (
	intentKind = "ImagePullIntent"
	pulledKind = "ImagePulledRecord"
)

// writeIntent returns when the intent is on disk: an image that outlives it and has no record would be one
// that everybody may use. Records need no such care, as the intent goes after them.
func (r records) writeIntent(image string) error {
	return writeRecord(recordFile(r.intents, image), kubeletconfig.ImagePullIntent{TypeMeta: typeMeta(intentKind), Image: image}, (*os.File).Sync)
}

func (r records) intended(image string) (bool, error) {
	i, err := readIntent(recordFile(r.intents, image))
	return i.Image == image && err == nil, absentIsFine(err)
}

func (r records) removeIntent(image string) error {
	return absentIsFine(os.Remove(recordFile(r.intents, image)))
}

// allIntents are the images that were begun, as far as they can be read.
func (r records) allIntents() ([]string, error) {
	files, err := recordFiles(r.intents)
	var images []string
	for _, file := range files {
		i, readErr := readIntent(file)
		if readErr != nil {
			err = errors.Join(err, readErr)
			continue
		}
		images = append(images, i.Image)
	}
	return images, err
}

func readIntent(file string) (i kubeletconfig.ImagePullIntent, err error) {
	err = readRecord(file, &i)
	if err == nil && i.TypeMeta != typeMeta(intentKind) {
		err = fmt.Errorf("%s is no %s", file, intentKind)
	}
	return i, err
}

// get is the record of the image with the runtime's reference, nil when there is none.
func (r records) get(ref string) (*kubeletconfig.ImagePulledRecord, error) {
	p, err := readPulled(recordFile(r.pulled, ref))
	if errors.Is(err, fs.ErrNotExist) || err == nil && p.ImageRef != ref {
		return nil, nil
	}
	return p, err
}

func (r records) write(p *kubeletconfig.ImagePulledRecord) error {
	p.TypeMeta = typeMeta(pulledKind)
	return writeRecord(recordFile(r.pulled, p.ImageRef), p, func(*os.File) error { return nil })
}

func (r records) remove(ref string) error { return absentIsFine(os.Remove(recordFile(r.pulled, ref))) }

// allPulled are the records that can be read.
func (r records) allPulled() ([]*kubeletconfig.ImagePulledRecord, error) {
	files, err := recordFiles(r.pulled)
	var all []*kubeletconfig.ImagePulledRecord
	for _, file := range files {
		p, readErr := readPulled(file)
		if readErr != nil {
			err = errors.Join(err, readErr)
			continue
		}
		all = append(all, p)
	}
	return all, err
}

func readPulled(file string) (*kubeletconfig.ImagePulledRecord, error) {
	p := &kubeletconfig.ImagePulledRecord{}
	err := readRecord(file, p)
	if err == nil && p.TypeMeta != typeMeta(pulledKind) {
		err = fmt.Errorf("%s is no %s", file, pulledKind)
	}
	return p, err
}

func recordFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var files []string
	for _, e := range entries {
		if !e.IsDir() && strings.HasPrefix(e.Name(), recordPrefix) && !strings.HasSuffix(e.Name(), unfinished) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, err
}

// readRecord takes no field that it does not know: it might be one that takes back what the others allow.
func readRecord(file string, into any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

// writeRecord replaces a record at once.
func writeRecord(file string, record any, sync func(*os.File) error) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+"-*"+unfinished)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, sync(f), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func absentIsFine(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
