#include "picture.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "common/program.h"

// Only what the Python side reads, too. Not TGA: any file might be one.
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STBI_NO_PIC
#define STBI_NO_PSD
#define STBI_NO_TGA
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#include "stb/stb_image.h"
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

using tools::Failure;

namespace {

constexpr int kMaxSide = 20000;             // libbluelm's limit
constexpr int64_t kMaxPixels = 178956970;   // as in images.py
constexpr int64_t kMaxFileBytes = 1 << 30;  // stb_image counts in int

std::vector<uint8_t> read_file(const std::string& path) {
    struct stat status;
    if (stat(path.c_str(), &status) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) throw Failure(path + ": no such file; check the path");
        throw Failure(path + ": cannot be read (" + std::strerror(errno) + ")");
    }
    if (S_ISDIR(status.st_mode)) throw Failure(path + ": a directory, not a picture; name a file in it");
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file) throw Failure(path + ": cannot be read (" + std::strerror(errno) + ")");
    std::vector<uint8_t> data;
    uint8_t block[65536];
    size_t n;
    while ((n = std::fread(block, 1, sizeof block, file.get())) > 0) {
        data.insert(data.end(), block, block + n);
        if (static_cast<int64_t>(data.size()) > kMaxFileBytes) throw Failure(path + ": more than 1 GiB");
    }
    if (std::ferror(file.get())) throw Failure(path + ": cannot be read (" + std::strerror(errno) + ")");
    if (data.empty()) throw Failure(path + ": the file is empty (0 bytes); copy it again");
    return data;
}

// Reads the TIFF structure inside EXIF, every access checked; 1 (upright) for whatever is odd.
class Exif {
public:
    Exif(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    int orientation() const {
        if (size_ < 8) return 1;
        const bool big = data_[0] == 'M' && data_[1] == 'M';
        if (!big && !(data_[0] == 'I' && data_[1] == 'I')) return 1;
        const size_t directory = number(4, 4, big);
        const size_t entries = number(directory, 2, big);
        for (size_t i = 0; i < entries; ++i) {
            const size_t entry = directory + 2 + 12 * i;
            if (entry + 12 > size_) break;
            if (number(entry, 2, big) == 0x0112 && number(entry + 2, 2, big) == 3) {
                const size_t value = number(entry + 8, 2, big);
                return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
            }
        }
        return 1;
    }

private:
    size_t number(size_t at, size_t bytes, bool big) const {
        if (at > size_ || bytes > size_ - at) return 0;
        size_t value = 0;
        for (size_t i = 0; i < bytes; ++i) value = value << 8 | data_[at + (big ? i : bytes - 1 - i)];
        return value;
    }

    const uint8_t* data_;
    size_t size_;
};

// EXIF's orientation 1..8 of a JPEG; 1 for everything else.
int exif_orientation(const std::vector<uint8_t>& file) {
    if (file.size() < 4 || file[0] != 0xff || file[1] != 0xd8) return 1;
    for (size_t at = 2; at + 4 <= file.size() && file[at] == 0xff;) {
        const uint8_t marker = file[at + 1];
        if (marker == 0xff) {  // a fill byte
            ++at;
            continue;
        }
        if (marker == 0xda) break;  // the pixels begin
        const size_t length = static_cast<size_t>(file[at + 2]) << 8 | file[at + 3];
        if (length < 2 || length > file.size() - at - 2) break;
        if (marker == 0xe1 && length >= 8 && std::memcmp(&file[at + 4], "Exif\0\0", 6) == 0) {
            return Exif(&file[at + 10], length - 8).orientation();
        }
        at += 2 + length;
    }
    return 1;
}

// Turns and mirrors the picture so that it stands upright.
Picture upright(Picture picture, int orientation) {
    if (orientation == 1) return picture;
    const bool turned = orientation >= 5;
    Picture out;
    out.width = turned ? picture.height : picture.width;
    out.height = turned ? picture.width : picture.height;
    out.rgb.resize(picture.rgb.size());
    for (int y = 0; y < out.height; ++y) {
        for (int x = 0; x < out.width; ++x) {
            int from_x = turned ? y : x, from_y = turned ? x : y;
            // Which ends are exchanged: 2 left-right, 3 both, 4 up-down; 5 none, 6 up-down, 7 both, 8
            // left-right.
            const bool mirror_x =
                orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
            const bool mirror_y =
                orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
            if (mirror_x) from_x = picture.width - 1 - from_x;
            if (mirror_y) from_y = picture.height - 1 - from_y;
            const size_t from = (static_cast<size_t>(from_y) * static_cast<size_t>(picture.width) +
                                 static_cast<size_t>(from_x)) *
                                3;
            std::memcpy(
                &out.rgb[(static_cast<size_t>(y) * static_cast<size_t>(out.width) + static_cast<size_t>(x)) *
                         3],
                &picture.rgb[from], 3);
        }
    }
    return out;
}

std::string what_is(const std::vector<uint8_t>& file) {
    const std::string start(file.begin(),
                            file.begin() + static_cast<int64_t>(std::min<size_t>(16, file.size())));
    if (start.size() >= 12 && start.compare(4, 4, "ftyp") == 0)
        return "a HEIC, AVIF or video file, which this program does not read; convert it to JPEG or PNG";
    if (start.compare(0, 4, "RIFF") == 0)
        return "a WebP file, which this program does not read; convert it to JPEG or PNG";
    if (start.compare(0, 4, "GGUF") == 0) return "a model file (GGUF), not a picture";
    for (const char* known : {"\x89PNG", "\xff\xd8\xff", "GIF8", "BM"})
        if (start.compare(0, std::strlen(known), known) == 0)
            return std::string("damaged or truncated picture (") + stbi_failure_reason() + "); copy it again";
    return "not a picture (PNG, JPEG, BMP, GIF, PPM)";
}

}  // namespace

Picture load_picture(const std::string& path) {
    const std::vector<uint8_t> file = read_file(path);
    const int size = static_cast<int>(file.size());
    Picture picture;
    int channels = 0;
    if (!stbi_info_from_memory(file.data(), size, &picture.width, &picture.height, &channels))
        throw Failure(path + ": " + what_is(file));
    const int64_t pixels = static_cast<int64_t>(picture.width) * picture.height;
    if (picture.width > kMaxSide || picture.height > kMaxSide || pixels > kMaxPixels) {
        throw Failure(path + ": " + std::to_string(picture.width) + " x " + std::to_string(picture.height) +
                      " pixels; at most 20000 on a side and 178,956,970 in all, make it smaller first");
    }
    const std::unique_ptr<uint8_t, void (*)(void*)> rgba(
        stbi_load_from_memory(file.data(), size, &picture.width, &picture.height, &channels, 4),
        stbi_image_free);
    if (!rgba) throw Failure(path + ": " + what_is(file));
    picture.rgb.resize(static_cast<size_t>(pixels) * 3);
    const uint8_t* in = rgba.get();
    for (size_t i = 0; i < picture.rgb.size(); i += 3, in += 4) {
        for (size_t c = 0; c < 3; ++c) {
            const unsigned sum = in[c] * in[3] + 255u * (255u - in[3]);  // on white
            picture.rgb[i + c] = static_cast<uint8_t>((sum + 127) / 255);
        }
    }
    return upright(std::move(picture), exif_orientation(file));
}
